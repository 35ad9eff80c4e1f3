"""Pretrained parts from the Hugging Face Hub or a folder, with the interfaces of ours."""
