#!/bin/sh
# Everything that plain curl can do. Usage: client/curl.sh [http://host:8000]
set -eu
URL=${1:-http://localhost:8000}
GENERATE=$URL/v2/models/generate/generate

# A picture, as a PNG in base64. Every field but the prompt may be left out.
curl --fail-with-body --silent --show-error "$GENERATE" --data '{
  "prompt": "a large yellow star in the centre, on a blue background",
  "negative_prompt": "",
  "num_inference_steps": 25,
  "guidance_scale": 3.0,
  "seed": 1,
  "output_format": "png"
}' | python3 -c '
import base64, json, sys
answer = json.load(sys.stdin)
open("star.png", "wb").write(base64.b64decode(answer["png"]))
print("star.png", answer["outcome"])'

# The report alone.
curl --fail-with-body --silent --show-error "$GENERATE" \
  --data '{"prompt": "a small blue square, on a red background", "output_format": "none"}'
echo

# Progress as server-sent events, one a line; the last one is the picture (here without it).
curl --no-buffer --fail-with-body --silent --show-error "$URL/v2/models/generate_stream/generate_stream" \
  --data '{"prompt": "a small blue square, on a red background", "output_format": "none"}'

# A request that has a name can be cancelled by it. Closing the connection would not: Triton does not notice.
curl --silent "$GENERATE" \
  --data '{"prompt": "a small red heart", "num_inference_steps": 200, "request_id": "heart", "output_format": "none"}' &
sleep 0.3
curl --fail-with-body --silent --show-error "$GENERATE" --data '{"op": "cancel", "request_id": "heart"}'
echo
wait

# A mistake is answered with 400 and a sentence.
curl --silent --write-out ' (HTTP %{http_code})\n' "$GENERATE" --data '{"prompt": "a star", "num_inference_steps": 0}'
