"""Prompts in the language of the tiny family, for demos and measurements."""

PROMPTS = (
    "a small red circle above a large striped blue square, on a yellow background",
    "a large yellow star in the centre, on a blue background",
    "a large pink heart left of a small white cross, on a purple background",
    "a large dotted green triangle on the right, on a white background",
    "a small orange diamond below a large cyan ring, on a black background",
    "on a pink background, a large black cross above a small red heart",
    "a large white ring on the left, green background",
    "a small blue square right of a large striped orange circle, on a cyan background",
)

# What somebody might ask for next: the same in other words, two with one attribute changed, last something else.
SIMILAR_PROMPTS = (
    "a large striped blue square below a small red circle, on a yellow background",
    "on a blue background, a large yellow star in the centre",
    "on a purple background, a large pink heart left of a small white cross",
    "a large dotted green triangle on the right, on a yellow background",
    "a small orange diamond below a large white ring, on a black background",
    "a large black cross above a small red heart, on a pink background",
    "on a green background, a large white ring on the left",
    "a large purple heart above a small dotted yellow cross, on a green background",
)
