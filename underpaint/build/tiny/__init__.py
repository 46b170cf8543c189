"""The tiny family: a text-to-image family trained from scratch on procedurally drawn scenes.

The rooms, in the order they are used: `scenes` (what is drawn and how it is told), `tokenizer`,
`architectures`, `data`, `loop` and `checkpoints`, `train_autoencoder`, `train_variant`, `export`,
`judge` and `evaluate`; `cli` is the door.
"""
