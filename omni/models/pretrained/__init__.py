"""Parts that were trained elsewhere, from the Hugging Face Hub or a folder, with the interfaces of our own."""
