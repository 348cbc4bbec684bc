"""What a dataset and a backbone are, and how one becomes stored embeddings."""
