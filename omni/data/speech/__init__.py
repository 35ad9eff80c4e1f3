"""Speech: utterances on disk and on the Hub, their features and batches."""
