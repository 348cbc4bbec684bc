"""Search over stored embeddings, and the vote of the neighbours it finds."""
