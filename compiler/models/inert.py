"""Which fields of `config.json` say nothing about the network that is compiled.

Everything else that no architecture reads is refused, whatever its value: an absent field and a false one need not mean
the same. Sources: `PreTrainedConfig.to_dict` of transformers 4 and 5, and what published checkpoints hold besides.
"""

from collections.abc import Mapping
from typing import Any

# Inert with any value.
_BOOKKEEPING = (
    "architectures auto_map model_type name_or_path transformers_version unsloth_version unsloth_fixed "
    "transformers.js_config generation_config is_llama_config language_model_only custom_pipelines"
)
_TOKENS = (
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id tokenizer_class "
    "tokenizer_padding_side tokenizer_model_max_length max_sequence_length model_max_length prefix"
)
_TRAINING = (
    "attention_dropout attention_probs_dropout_prob classifier_dropout embd_pdrop resid_pdrop hidden_dropout "
    "hidden_dropout_prob embedding_dropout initializer_range finetuning_task problem_type id2label label2id num_labels "
    "task_specific_params gradient_checkpointing tie_encoder_decoder router_aux_loss_coef"
)
_RUNNING = (
    "dtype torch_dtype torchscript use_bfloat16 tf_legacy_loss use_cache use_return_dict return_dict output_attentions "
    "output_hidden_states output_router_logits chunk_size_feed_forward pretraining_tp is_decoder attn_implementation "
    "use_flash_attn use_flash_attention_2 flash_attn fused_bias_fc fused_rotary_emb fused_mlp "
    "cache_implementation"
)
# transformers 4 wrote these into config.json; they are generation_config.json's.
_GENERATION = (
    "max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty "
    "length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size encoder_repetition_penalty bad_words_ids "
    "num_return_sequences output_scores output_logits return_dict_in_generate forced_bos_token_id forced_eos_token_id "
    "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens renormalize_logits "
    "penalty_alpha"
)
INERT_FIELDS = frozenset(" ".join((_BOOKKEEPING, _TOKENS, _TRAINING, _RUNNING, _GENERATION)).split())

# Inert with these values alone, where no architecture reads the field: what a plain decoder does without it.
NEUTRAL_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": ({},),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "lm_head_bias": (False,),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "use_qk_norm": (False,),
    "alibi": (False,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "use_bidirectional_attention": (False,),
    "use_sliding_window": (False,),
    "logit_scale": (1,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "num_experts_per_tok": (0,),
}


def is_one_of(value: Any, supported: tuple[Any, ...]) -> bool:
    """Whether a value of JSON is among these; true and 1 are not the same."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in supported)
