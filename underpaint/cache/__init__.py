"""What was painted before: found again by similarity, kept on disk, given up in a stated order.

``cache`` is the facade (``ImageCache``); ``store`` holds the truth, ``index`` proposes, ``eviction`` decides what goes.
Import from these: only ``index`` and the facade above it need FAISS, which takes its time to load.
"""
