"""Paint several pictures at once with the asyncio SDK, give one of them up, and see what a mistake looks like.

python client/generate_async.py [host:8001]
"""

import asyncio
import sys

from underpaint.client import AsyncClient
from underpaint.errors import Cancelled, InvalidArgument

PROMPTS = [
    "a large yellow star in the centre, on a blue background",
    "a large pink heart left of a small white cross, on a purple background",
    "a large white ring on the left, green background",
]


async def main(url: str = "localhost:8001") -> None:
    async with AsyncClient(url) as client:
        await client.wait_ready()

        pictures = await asyncio.gather(*(client.generate(prompt, seed=7) for prompt in PROMPTS))
        for number, picture in enumerate(pictures):
            print(picture.save(f"{number}.png"), picture.outcome.prompt)

        unwanted = asyncio.create_task(client.generate(PROMPTS[0], num_inference_steps=200, request_id="unwanted"))
        await asyncio.sleep(0.2)
        await client.cancel("unwanted")  # from anywhere; unwanted.cancel() does it, too
        try:
            await unwanted
        except Cancelled as error:
            print("cancelled:", error)

        try:
            await client.generate(PROMPTS[0], num_inference_steps=100_000)
        except InvalidArgument as error:
            print("refused:", error)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
