"""Checkpoints of a few thousand random weights, made by `transformers` itself, in the layouts of the Hub."""

from pathlib import Path

import torch

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["the red star is above the blue circle", "write down what is said a b c", "1 2 3, 4 5!", "ab bc ca abc"]
LLMS = ("qwen3", "llama", "gpt2")
ENCODERS = ("whisper", "hubert", "wav2vec2", "w2v-bert")


def llm(folder: Path, kind: str = "qwen3", *, template: str | None = TEMPLATE, seed: int = 0) -> str:
    """Saves a language model of two layers with its tokenizer: converted from SentencePiece for Llama, else bytes."""
    import transformers

    torch.manual_seed(seed)
    tokenizer = _tokenizer(kind, template)
    common = {"vocab_size": len(tokenizer) + 3, "bos_token_id": tokenizer.bos_token_id}
    common |= {"eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.15}  # large: outputs depend on all inputs
    if kind == "gpt2":
        config = transformers.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=512)
        model = transformers.GPT2LMHeadModel(config)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096}
        cls = {"qwen3": "Qwen3", "llama": "Llama"}[kind]
        config = getattr(transformers, f"{cls}Config")(**common, **sizes, tie_word_embeddings=kind == "qwen3")
        model = getattr(transformers, f"{cls}ForCausalLM")(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def encoder(folder: Path, kind: str = "whisper", *, seed: int = 0, sampling_rate: int = 16_000) -> str:
    """Saves a speech encoder of two layers, of width 16, with its feature extractor."""
    import transformers

    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    convs = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    rate = {"sampling_rate": sampling_rate}
    if kind == "whisper":
        config = transformers.WhisperConfig(
            vocab_size=50, num_mel_bins=20, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_source_positions=150,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        model = transformers.WhisperModel(config)
        extractor = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=3, **rate)
    elif kind == "w2v-bert":
        config = transformers.Wav2Vec2BertConfig(
            **sizes, feature_projection_input_dim=160, output_hidden_size=16, conformer_conv_dropout=0.0
        )
        model = transformers.Wav2Vec2BertModel(config)
        extractor = transformers.SeamlessM4TFeatureExtractor(stride=2, **rate)
    else:
        name = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2"}[kind]
        norm = {"hubert": "group", "wav2vec2": "layer"}[kind]
        config = getattr(transformers, f"{name}Config")(
            **sizes, **convs, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", conv_bias=norm == "layer"
        )
        model = getattr(transformers, f"{name}Model")(config)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True, **rate)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def speaker_encoder(folder: Path, kind: str = "WavLM", *, head: bool = True, sampling_rate: int = 16_000) -> str:
    """Saves an x-vector model of two layers, of width 16, with its feature extractor; or the model below the head."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, tdnn_dim=[16] * 5, xvector_output_dim=12)
    model = getattr(transformers, f"{kind}ForXVector" if head else f"{kind}Model")(config)
    for name, weight in model.named_parameters():
        if name.split(".")[0] in ("projector", "tdnn", "feature_extractor"):
            torch.nn.init.normal_(weight, std=0.4)  # large: embeddings depend on the recording
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, sampling_rate=sampling_rate)
    extractor.save_pretrained(folder)
    return str(folder)


def eyes(folder: Path, kind: str = "siglip") -> str:
    """Saves a vision tower of two layers, of width 16, for images of 16 × 16 in patches of 4, with its processor."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"image_size": 16, "patch_size": 4}
    if kind == "clip":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes))
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    else:
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes))
        processor = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _tokenizer(kind: str, template: str | None):
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if kind == "llama":  # as converted from SentencePiece: bytes are ordinary tokens
        names, byte_tokens = ["<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
        letters = sorted(set("▁" + "".join(TEXT).replace(" ", "")))
        vocabulary = [*names, *byte_tokens, *letters, "ab", "▁the", "th", "▁th"]
        merges = [("a", "b"), ("t", "h"), ("▁", "th"), ("▁th", "e")]
        ids = {name: number for number, name in enumerate(vocabulary)}
        backend = tokenizers.Tokenizer(models.BPE(ids, merges, byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        options = {"special_tokens": ["<|endoftext|>"], "initial_alphabet": alphabet, "show_progress": False}
        backend.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, **options))
    names = {"eos_token": "<|endoftext|>"} if kind != "llama" else {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer
