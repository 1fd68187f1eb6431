"""What the keys of a `config.json` are to our models: read as a field, of one value, or nothing."""

from typing import Any, NamedTuple

from wsdjax import families
from wsdjax.config.models import Transformer

KEYS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "tied": "tie_word_embeddings",
}
"""The keys of our fields that both families have."""
ROTARY = {
    "rotary_fraction": ("partial_rotary_factor", "rotary_pct"),
    "rotary_theta": ("rope_theta", "rotary_emb_base"),
}
"""Those of rotary positions, in transformers 5 and a LLaMA and in a GPT-NeoX."""


class Family(NamedTuple):
    like: Transformer
    """One of its models, by which the fields go that config.json does not tell."""
    fixed: tuple[str, ...]
    """The fields in which all are like that one."""
    keys: dict[str, str]
    """Further keys of our fields."""
    only: dict[str, Any]
    """The one value that each of these keys may have, where it is there."""
    classes: tuple[str, ...]
    """Those whose weights these are."""


FAMILIES = {
    "gpt_neox": Family(
        Transformer(),
        ("norm", "biases", "kv_heads", "gated"),
        {"norm_eps": "layer_norm_eps", "parallel_residual": "use_parallel_residual"},
        {"hidden_act": "gelu", "attention_bias": True},
        ("GPTNeoXForCausalLM", "GPTNeoXModel"),
    ),
    "llama": Family(
        families.llama(),
        ("norm", "gated", "parallel_residual", "rotary_fraction"),
        {"norm_eps": "rms_norm_eps", "kv_heads": "num_key_value_heads", "biases": "attention_bias"},
        {"hidden_act": "silu", "pretraining_tp": 1},
        ("LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"),
    ),
}
_OFF = (
    "attention_dropout attention_probs_dropout_prob hidden_dropout hidden_dropout_prob "
    "sliding_window rope_interleaved quantization_config per_layer_config pruned_heads "
    "is_encoder_decoder add_cross_attention cross_attention_hidden_size"
)
OFF = tuple(_OFF.split())
"""Keys of what our models have not: null, false, 0 or empty, where they are there."""
_HARMLESS = (
    # Where the file comes from, and what else there is beside it.
    "_name_or_path name_or_path _commit_hash transformers_version unsloth_version unsloth_fixed "
    "is_llama_config tokenizer_class custom_pipelines finetuning_task "
    # The dtype of the weights, which their file tells, and how PyTorch computes.
    "dtype torch_dtype torchscript use_bfloat16 tf_legacy_loss gradient_checkpointing "
    "chunk_size_feed_forward _attn_implementation attn_implementation "
    "_attn_implementation_autoset _experts_implementation experts_implementation "
    # Rotary positions have no maximum; an initialisation is gone once there are weights.
    "max_position_embeddings max_sequence_length initializer_range "
    # Tokens by name, which are the tokenizer's to say.
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id "
    "decoder_start_token_id "
    # What else a call returns; heads of classifiers, which a language model has not.
    "return_dict output_attentions output_hidden_states use_return_dict problem_type num_labels "
    "id2label label2id classifier_dropout is_decoder tie_encoder_decoder prefix "
    "task_specific_params "
    # How text is generated.
    "use_cache max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id "
    "remove_invalid_values exponential_decay_length_penalty suppress_tokens "
    "begin_suppress_tokens"
)
HARMLESS = frozenset(_HARMLESS.split())
"""Keys that do not change what a model computes of its weights, in transformers 4 and 5."""
