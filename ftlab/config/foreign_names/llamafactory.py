"""Names of LLaMA-Factory's arguments (``src/llamafactory/hparams``), those of transformers left out."""

from __future__ import annotations

from typing import Any

from ftlab.config.foreign_names.lines import Absent, Answer, Line, NotNeeded, as_list
from ftlab.config.foreign_names.transformers import LIGER, all_of, unless
from ftlab.config.foreign_names.trl import FP8

_OWN_TEMPLATE = "the tokenizer's own: there is no template of that name here"
# Its templates by ours, where they say the same; of others the tokenizer's own takes the place.
_TEMPLATES = {
    "alpaca": "alpaca", "baichuan2": "baichuan", "chatglm3": "chatglm3", "chatml": "chatml", "codegeex2": None,
    "deepseek": "deepseek", "deepseekcoder": "deepseek_coder", "deepseekr1": "deepseek_r1", "falcon": "falcon",
    "gemma": "gemma", "gemma2": "gemma", "gemma3": "gemma3", "intern2": "internlm2", "llama2": "llama2",
    "llama3": "llama3", "mistral": "mistral", "phi": "phi3", "phi4": "phi4", "qwen": "qwen", "qwen3": "qwen3",
    "qwen3_nothink": "qwen3_nothink", "vicuna": "vicuna", "yi": "yi", "zephyr": "zephyr",
}  # fmt: skip
_FLASH = {
    "fa2": "model.attention=flash_attention_2", "true": "model.attention=flash_attention_2",
    "auto": "model.attention=auto", "sdpa": "model.attention=sdpa", "disabled": "model.attention=eager",
    "fa3": Absent("there is no flash-attention 3 here; model.attention=auto takes the fastest that there is"),
    "": "model.attention={}",
}  # fmt: skip
# Of freeze_extra_modules: what lies outside the layers.
_EMBEDDINGS, _NORMS = {"embed_tokens", "lm_head", "embeddings"}, {"norm", "norms"}


def _validation(value: Any) -> Answer:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "data.split.fraction={}"
    if value >= 1:
        return Absent("a number of rows; a share of them is held out here, data.split.fraction, or a file")
    return "data.split.fraction={}" if value else "data.split.validation=none"


def _extra_modules(value: Any) -> Answer:
    names = set(map(str, as_list(value)))
    if not names or names - _EMBEDDINGS - _NORMS:
        return Absent("besides layers there are method.train_embeddings and method.train_norms")
    lines = ["method.train_embeddings=true"] * bool(names & _EMBEDDINGS) + ["method.train_norms=true"] * bool(
        names & _NORMS
    )
    return " ".join(lines)


def _adapters(value: Any) -> Answer:
    if len(as_list(value)) > 1:
        return Absent("several adapters: merge all but the last into the base first; model.adapter takes one")
    return "model.adapter={}"


_MEDIA = Absent("ftlab trains on text")
_SERVING = Absent("it is about answering, not about training")
_EXPORT = Absent("it is about exporting, not about training")
_QUANTIZE = Absent("weights are quantized by bitsandbytes: quant=nf4, fp4 or int8")

LLAMA_FACTORY: dict[str, Line] = {
    # the model
    "model_name_or_path": "model.path={}", "model_revision": "model.revision={}",
    "adapter_name_or_path": _adapters, "trust_remote_code": "model.trust_remote_code={}", "flash_attn": _FLASH,
    "train_from_scratch": {"true": "model.init=random", "false": NotNeeded("model.init=pretrained is the default")},
    "disable_gradient_checkpointing": {"true": "train.gradient_checkpointing=false",
                                       "false": "train.gradient_checkpointing=true"},
    "enable_liger_kernel": LIGER,
    "use_unsloth_gc": {"true": "train.gradient_checkpointing=true", "false": NotNeeded("off, there as here")},
    "moe_aux_loss_coef": "train.router_aux_loss_coef={}", "template": {
        **{name: f"model.template={ours}" if ours else ("model.template=null", _OWN_TEMPLATE)
           for name, ours in _TEMPLATES.items()},
        "": ("model.template=null", _OWN_TEMPLATE),
    },
    # the method
    "stage": "stage={}",
    "finetuning_type": {
        "lora": "method=lora", "full": "method=full", "freeze": "method=freeze",
        "oft": Absent("there is no OFT here: method=lora, full or freeze"),
    },
    "lora_rank": "lora.r={}", "lora_alpha": "lora.alpha={}", "lora_dropout": "lora.dropout={}",
    "lora_target": {"all": "lora.target_modules=all-linear", "": "lora.target_modules=[{}]"},
    "use_rslora": {"true": "lora=rslora", "false": NotNeeded("off, there as here")},
    "use_dora": {"true": "lora=dora", "false": NotNeeded("off, there as here")},
    "pissa_init": {"true": "lora=pissa", "false": NotNeeded("off, there as here")},
    "loraplus_lr_ratio": "lora=loraplus lora.loraplus_ratio={}",
    "freeze_trainable_layers": "method.trainable_layers={}",
    "freeze_trainable_modules": {"all": NotNeeded("null, which is the default, are all of a layer"),
                                 "": "method.trainable_modules=[{}]"},
    "freeze_extra_modules": _extra_modules,
    "quantization_bit": {"4": "method=qlora", "8": "quant=int8",
                         "": Absent("there are 4 bits (method=qlora) and 8 (quant=int8)")},
    "quantization_method": {**dict.fromkeys(("bnb", "bitsandbytes"), NotNeeded(_QUANTIZE)), "": _QUANTIZE},
    "quantization_type": {"nf4": "quant=nf4", "fp4": "quant=fp4"},
    "double_quantization": "quant.double_quantization={}",
    "pure_bf16": ("hardware.precision=bf16", "weights that train stay in fp32"),
    # preferences and rewards
    "pref_beta": "stage.beta={}", "pref_ftx": "stage.sft_weight={}",
    "pref_loss": {"sigmoid": "stage.loss_type=sigmoid", "hinge": "stage.loss_type=hinge", "ipo": "stage.loss_type=ipo",
                  "simpo": "stage.loss_type=simpo", "orpo": "stage=orpo",
                  "kto_pair": Absent("KTO of pairs is not here: stage=kto takes labelled answers")},
    "dpo_label_smoothing": "stage.label_smoothing={}", "simpo_gamma": "stage.simpo_gamma={}",
    "kto_chosen_weight": "stage.desirable_weight={}", "kto_rejected_weight": "stage.undesirable_weight={}",
    "ref_model": "stage.reference_model={}", "reward_model": "stage.reward_model={}",
    "reward_model_type": {"lora": NotNeeded("a run of stage=rm says itself what it is"),
                          "full": NotNeeded("a run of stage=rm says itself what it is"),
                          "": Absent("rewards come from a run of stage=rm, or from functions: stage.rewards")},
    "ppo_epochs": "stage.ppo_epochs={}", "ppo_target": "stage.kl_target={}",
    "ppo_buffer_size": ("stage.rollout_batch_size={}", "times the answers of a step"),
    "max_new_tokens": "stage.max_new_tokens={}", "temperature": "stage.temperature={}",
    # the data
    "dataset": "data={}", "dataset_dir": "data.registry={}/dataset_info.json",
    "eval_dataset": "data.split.validation={}", "val_size": _validation,
    "cutoff_len": "data.max_length={}", "max_samples": "data.max_samples={}",
    "packing": "data.packing={}", "neat_packing": {"true": "data.packing=true", "false": NotNeeded("see packing")},
    "mix_strategy": "data.mix={}", "interleave_probs": "data.probabilities=[{}]",
    "preprocessing_num_workers": "data.workers={}",
    "train_on_prompt": {"true": "data.train_on=all", "false": NotNeeded("answers alone are trained on, as here")},
    "mask_history": {"true": "data.train_on=last", "false": NotNeeded("every answer is trained on, as here")},
    "streaming": Absent("rows of files are read in pieces anyway; of sets on a hub data.hub.streaming=true reads no "
                        "more than it takes"),
    "overwrite_cache": NotNeeded("prepared data is kept by its content, so it is never of other rows; data.cache=null "
                                 "prepares it anew each time"),
    "tokenized_path": Absent("prepared data is kept by its content, below data.cache"),
    "tool_format": Absent("the template says how tools are written"),
    # evaluations
    "early_stopping_steps": "train.early_stopping={}", "plot_loss": NotNeeded(
        "tracker=tensorboard shows the losses of metrics.jsonl"),
    "compute_accuracy": Absent("perplexity is measured; of answers eval.metrics=[exact_match]"),
    # optimizers of its own
    "use_galore": {"true": "train.optimizer=galore_adamw", "false": NotNeeded("off, there as here")},
    "use_apollo": {"true": "train.optimizer=apollo_adamw", "false": NotNeeded("off, there as here")},
    **all_of(Absent("an optimizer has its own values here"),
             "galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
             "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type "
             "apollo_scale_type apollo_layerwise apollo_scale_front"),
    **all_of(Absent("there is no such optimizer here: train.optimizer"),
             "use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval badam_update_ratio "
             "badam_mask_mode badam_verbose use_adam_mini use_muon loraplus_lr_embedding"),
    # what there is no need to say
    **all_of(NotNeeded("ftlab does so"), "low_cpu_mem_usage use_fast_tokenizer ignore_pad_token_for_loss "
                                         "use_reentrant_gc print_param_status preprocessing_batch_size buffer_size "
                                         "data_shared_file_system data_seed_everything"),
    "include_effective_tokens_per_second": NotNeeded("tokens are always counted"),
    "cache_dir": NotNeeded("models are in the hub's cache: HF_HOME"),
    "quantization_device_map": NotNeeded("each process holds the model on its device"),
    "pissa_iter": NotNeeded("PEFT's PiSSA, whose decomposition is exact"),
    # what there is not
    **all_of(Absent("comes from the environment: HF_TOKEN, or hf auth login"), "hf_hub_token"),
    **all_of(Absent("comes from the environment"), "ms_hub_token om_hub_token"),
    **all_of(Absent("the vocabulary stays the tokenizer's: add tokens to its folder first"),
             "resize_vocab add_tokens add_special_tokens new_special_tokens_config init_special_tokens "
             "split_special_tokens"),
    **all_of(Absent("positions are those of the model's own config.json"), "rope_scaling shift_attn"),
    **all_of(Absent("there is no such model here"), "mixture_of_depths use_llama_pro use_mca"),
    **all_of(Absent("ftlab has its own trainer"),
             "use_unsloth use_v1_kernels use_kt kt_optimize_rule cpu_infer chunk_size"),
    **all_of(Absent("norms, head and losses have the precision of hardware.precision"),
             "upcast_layernorm upcast_lmhead_output"),
    "fp8": FP8, "fp8_backend": NotNeeded("fp8 is torchao's: train.fp8"),
    "fp8_enable_fsdp_float8_all_gather": Absent("FSDP gathers in bf16; the products of train.fp8 are in fp8"),
    **all_of(Absent("an adapter trains alone; method=freeze trains parts of the model itself"),
             "additional_target"),
    "create_new_adapter": Absent("model.adapter is trained on; merge it into the base to begin another"),
    "adapter_folder": Absent("give the whole path: model.adapter"),
    "pissa_convert": Absent("the adapter is saved as PiSSA made it, with the base that it needs"),
    **all_of(Absent("there is no OFT here: method=lora, full or freeze"),
             "module_dropout oft_rank oft_block_size oft_target"),
    **all_of(unless("there is no such term here", "0"), "pref_bco_weight"),
    **all_of(Absent("there is no such term here"),
             "ld_alpha use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha"),
    **all_of(Absent("the reference is the policy as the phase begins; stage.reference_model names another"),
             "ref_model_adapters ref_model_quantization_bit"),
    **all_of(Absent("a run of stage=rm brings its own base, adapter and quantization: stage.reward_model"),
             "reward_model_adapters reward_model_quantization_bit"),
    **all_of(Absent("rewards are taken as they are; advantages are normalized"), "ppo_score_norm ppo_whiten_rewards"),
    **all_of(_MEDIA, "media_dir image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches "
                     "video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate "
                     "freeze_vision_tower freeze_multi_modal_projector freeze_language_model"),
    **all_of(_SERVING, "infer_backend offload_folder use_kv_cache infer_dtype vllm_maxlen vllm_gpu_util "
                       "vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction "
                       "sglang_tp_size sglang_config sglang_lora_backend default_system enable_thinking"),
    **all_of(_EXPORT, "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
                      "export_quantization_nsamples export_quantization_maxlen export_legacy_format "
                      "export_hub_model_id"),
    **all_of(Absent("answers are sampled from all tokens, or greedy"),
             "top_p top_k num_beams do_sample eval_num_beams skip_special_tokens"),
    **all_of(unless("answers are sampled without penalties", "1"), "repetition_penalty length_penalty"),
    **all_of(Absent("the validation split is evaluated as one"), "eval_on_each_dataset"),
    "disable_shuffling": Absent("rows come in an order drawn by seed"),
    **all_of(Absent("there is no SwanLab here: tracker=tensorboard, wandb or mlflow"),
             "use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_logdir "
             "swanlab_lark_webhook_url"),
    **all_of(Absent("there is no SwanLab here"), "swanlab_api_key swanlab_lark_secret"),
    **all_of(Absent("several machines are hardware.nodes=N, a cluster hydra/launcher=slurm"),
             "ray_run_name ray_storage_path ray_storage_filesystem ray_num_workers resources_per_worker "
             "placement_strategy ray_init_kwargs"),
}  # fmt: skip
