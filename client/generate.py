"""Paint one picture with the SDK, then watch another one appear.

python client/generate.py            # a server on this machine: underpaint serve
python client/generate.py host:8001
"""

import sys

from underpaint.client import Client, Picture

PROMPT = "a small red circle above a large striped blue square, on a yellow background"


def main(url: str = "localhost:8001") -> None:
    with Client(url) as client:
        client.wait_ready()

        picture = client.generate(PROMPT, seed=1, num_inference_steps=25)
        print(picture.save("one.png"), picture.outcome.timings_ms)

        for event in client.stream(PROMPT, seed=2):
            if isinstance(event, Picture):
                print(event.save("two.png"), event.outcome.timings_ms)
            else:
                print(f"step {event.step} of {event.total}")


if __name__ == "__main__":
    main(*sys.argv[1:])
