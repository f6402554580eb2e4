"""Names of TRL's configs (SFTConfig, DPOConfig, KTOConfig, RewardConfig, GRPOConfig, ORPOConfig, ModelConfig and the
arguments of its scripts), of this and earlier versions, those of transformers left out."""

from __future__ import annotations

from typing import Any

from ftlab.config.foreign_names.lines import Absent, Answer, Line, NotNeeded, as_list, as_word
from ftlab.config.foreign_names.transformers import all_of, unless

PRECISION: Line = {name: f"hardware.precision={short}" for name, short in (
    ("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("", "auto"),
)}  # fmt: skip
_DTYPE = {"bfloat16": "hardware.precision=bf16", "bf16": "hardware.precision=bf16",
          "float16": "hardware.precision=fp16", "fp16": "hardware.precision=fp16",
          "": NotNeeded("weights that train are fp32; hardware.precision says what is computed with")}  # fmt: skip
FP8: dict[str, Answer] = {"true": ("train.fp8=tensorwise", "under method=full; hardware.precision stays bf16"),
                          "false": "train.fp8=none"}  # fmt: skip
_LOSSES = {"sigmoid", "hinge", "ipo", "robust", "apo_zero"}
_RENAMED = {"exo_pair": "exo", "nca_pair": "nca"}
_AS_HERE = ("nll", "kto", "dapo")  # the loss of a stage that has but one


def _loss(value: Any) -> Answer:
    names = [as_word(one) for one in as_list(value)] if value is not None else []
    if len(names) > 1:
        return Absent("a mixture of losses; stage.loss_type takes one, and stage.sft_weight adds that of sft")
    name = names[0] if names else "sigmoid"
    if name in _AS_HERE:
        return NotNeeded("the loss of the stage")
    if name in ("simpo", "cpo") or name in _LOSSES:
        return "stage.loss_type={}" if value is None else f"stage.loss_type={name}"
    return f"stage.loss_type={_RENAMED[name]}" if name in _RENAMED else Absent(f"there is no loss {name} here")


def _targets(value: Any) -> Answer:
    names = as_list(value) if value is not None else []
    if [as_word(name) for name in names] == ["all-linear"]:
        return "lora.target_modules=all-linear"
    return "lora.target_modules=[{}]" if len(names) > 1 or isinstance(value, list) else "lora.target_modules={}"


_VLLM = Absent("stage.vllm=true generates with vLLM on the training GPU, and takes no options")
_GRPO = Absent("GRPO is TRL's with its loss dapo; there is no such option here")
_TEMPLATE = Absent("the tokenizer's own template is taken, or one of those that ship: model.template=NAME")

TRL: dict[str, Line] = {
    # the model
    "model_name_or_path": "model.path={}", "model_revision": "model.revision={}",
    "trust_remote_code": "model.trust_remote_code={}", "attn_implementation": "model.attention={}",
    "dtype": _DTYPE, "torch_dtype": _DTYPE,
    "model_init_kwargs": Absent("the keys of model say how it is loaded"),
    "use_kernels": Absent("no layers come from the hub; model.kernels=liger has Liger's"),
    "router_aux_loss_coef": "train.router_aux_loss_coef={}",
    # the method
    "use_peft": {"true": "method=lora", "false": "method=full"},
    "lora_r": "lora.r={}", "lora_alpha": "lora.alpha={}", "lora_dropout": "lora.dropout={}",
    "lora_target_modules": _targets,
    "lora_target_parameters": Absent("lora.experts=true puts adapters on fused experts"),
    "lora_modules_to_save": Absent("an adapter trains alone; method=freeze trains parts of the model itself"),
    "lora_task_type": NotNeeded("the stage says so"),
    "use_rslora": {"true": "lora=rslora", "false": NotNeeded("off, there as here")},
    "use_dora": {"true": "lora=dora", "false": NotNeeded("off, there as here")},
    "load_in_4bit": {"true": "method=qlora", "false": NotNeeded("off, there as here")},
    "load_in_8bit": {"true": "quant=int8", "false": NotNeeded("off, there as here")},
    "bnb_4bit_quant_type": "quant={}", "use_bnb_nested_quant": "quant.double_quantization={}",
    "bnb_4bit_quant_storage": NotNeeded("weights are stored as they can be sharded"),
    # the data
    "dataset_name": "data={}", "dataset_config": "data.hub.subset={}", "dataset_train_split": "data.hub.split={}",
    "dataset_test_split": Absent("a file is held out with data.split.validation=FILE, or a share of the rows"),
    "dataset_streaming": "data.hub.streaming={}",
    "datasets": Absent("a mixture of sets is a registry of them: data.name=[a, b] data.registry=FILE"),
    "streaming": "data.hub.streaming={}", "test_split_size": "data.split.fraction={}",
    "max_length": "data.max_length={}", "max_seq_length": "data.max_length={}",
    "max_prompt_length": {"": ("data.max_length={}", "of prompts and answers together but for ppo and grpo")},
    "truncation_mode": {"keep_start": "data.truncation=right", "keep_end": "data.truncation=left"},
    "packing": "data.packing={}",
    "packing_strategy": {"bfd": NotNeeded("packing is best fit"), "ffd": NotNeeded("packing is best fit"),
                         "wrapped": "data.packing=wrapped",
                         "": Absent("packing is best fit: data.packing=true, wrapped or false")},
    "eval_packing": NotNeeded("rows of an evaluation are packed as those of training"),
    "padding_free": NotNeeded("data.packing=true leaves no padding"),
    "dataset_text_field": "data.columns.text={}", "dataset_num_proc": "data.workers={}",
    "assistant_only_loss": {"true": "data.train_on=assistant", "false": "data.train_on=all"},
    "completion_only_loss": {"true": "data.train_on=assistant", "false": "data.train_on=all"},
    "shuffle_dataset": NotNeeded("rows come in an order drawn by seed"),
    "dataset_kwargs": Absent("rows are prepared by the keys of data"),
    **all_of(_TEMPLATE, "chat_template_path chat_template_kwargs eos_token pad_token"),
    # preferences and rewards
    "beta": "stage.beta={}", "loss_type": _loss, "label_smoothing": "stage.label_smoothing={}",
    "desirable_weight": "stage.desirable_weight={}", "undesirable_weight": "stage.undesirable_weight={}",
    "simpo_gamma": "stage.simpo_gamma={}", "rpo_alpha": "stage.sft_weight={}",
    "disable_dropout": NotNeeded("dropout is off where a loss compares passes"),
    "precompute_ref_log_probs": NotNeeded("the reference is computed beside the policy, to the same numbers"),
    "precompute_ref_batch_size": NotNeeded("the reference is computed beside the policy"),
    **all_of(Absent("the reference stays as it was when the phase began"),
             "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps"),
    **all_of(Absent("there is no such term here"),
             "loss_weights ld_alpha f_divergence_type f_alpha_divergence_coef use_weighting discopop_tau "
             "center_rewards_coefficient"),
    "reward_funcs": "stage.rewards=[{}]", "reward_weights": "stage.reward_weights=[{}]",
    "reward_model_name_or_path": Absent("a reward model is a run of stage=rm: stage.rewards=[model:RUN]"),
    "num_generations": "stage.num_generations={}", "max_completion_length": "stage.max_new_tokens={}",
    "temperature": "stage.temperature={}", "num_iterations": "stage.num_iterations={}", "epsilon": "stage.epsilon={}",
    "steps_per_generation": "stage.steps_per_generation={}", "use_vllm": "stage.vllm={}",
    **all_of(_VLLM, "vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex "
                    "vllm_guided_decoding_regex vllm_server_base_url vllm_server_host vllm_server_port "
                    "vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length "
                    "vllm_tensor_parallel_size vllm_importance_sampling_correction vllm_importance_sampling_mode "
                    "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap"),
    **all_of(_GRPO, "num_generations_eval generation_batch_size delta epsilon_high sapo_temperature_neg "
                    "sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg "
                    "importance_sampling_level multi_objective_aggregation scale_rewards mask_truncated_completions "
                    "top_entropy_quantile entropy_coef use_adaptive_entropy entropy_coef_min entropy_coef_max "
                    "entropy_coef_delta entropy_target max_tool_calling_iterations off_policy_mask_threshold "
                    "use_bias_correction_kl use_transformers_continuous_batching use_transformers_paged "
                    "transformers_continuous_batching_config cast_lm_head_to_fp32 generation_kwargs "
                    "cache_implementation normalize_advantages reward_clip_range"),
    "ds3_gather_for_generation": NotNeeded("grpo is refused under ZeRO-3; z2 holds whole weights"),
    **all_of(unless("completions are sampled from all tokens", "1", "0", ""), "top_p top_k min_p"),
    "repetition_penalty": unless("completions are sampled without penalties", "1"),
    **all_of(NotNeeded("samples are kept in samples/ of the run directory: eval.samples"),
             "log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo"),
    "activation_offloading": "train.activation_offload={}",
    "ignore_bias_buffers": NotNeeded("it is about an error of DDP's"),
}  # fmt: skip
