"""Which tool quantized a checkpoint, by its config.json: the format that is kept, or a refusal that names it.

Knows the names of formats; what each means is in its own file.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import WispError
from ..models.fields import shortened
from . import awq, compressed, gptq, mlx
from .packed import Format

ORIGINAL = "compile the bfloat16, float16 or float32 checkpoint that it was made from"
READERS: dict[str, Callable[[Mapping[str, Any]], Format]] = {
    "awq": awq.read_config,
    "gptq": gptq.read_config,
    "compressed-tensors": compressed.read_config,
}
# Formats that are known and not read, and what they are.
REFUSED = {
    "fp8": "8-bit floats",
    "fbgemm_fp8": "8-bit floats",
    "bitsandbytes": "codebooks of bitsandbytes, whose values depend on its kernels",
    "exl2": "a bit width for every group of columns (ExLlamaV2)",
    "exl3": "trellis codes (ExLlamaV3)",
    "aqlm": "sums of codebooks",
    "quip": "lattice codebooks",
    "hqq": "the layers of HQQ",
    "quanto": "the layers of Quanto",
    "torchao": "tensors of torchao",
    "mxfp4": "4-bit floats",
    "bitnet": "ternary weights",
}


def quantized_format(config: Mapping[str, Any]) -> Format | None:
    """The format of a config.json, to be kept; None for one that says nothing of quantization.

    Raises WispError for a format that is not supported, and for one of these whose numbers are not.
    """
    stated, of_mlx = config.get("quantization_config"), config.get("quantization")
    # MLX writes its own field, and a copy of it where Hugging Face looks.
    if isinstance(of_mlx, Mapping) and of_mlx and (stated is None or stated == of_mlx):
        return mlx.read_config(of_mlx)
    if not stated:
        return None
    method = stated.get("quant_method") if isinstance(stated, Mapping) else None
    if isinstance(stated, Mapping) and isinstance(method, str) and method in READERS:
        return READERS[method](stated)
    what = REFUSED.get(method) if isinstance(method, str) else None
    raise WispError(
        "the checkpoint is quantized in a way that is not supported",
        got=shortened(method if method is not None else stated) + (f": {what}" if what else ""),
        expected=f"config.json quantization_config of {', '.join(READERS)}, or MLX's quantization",
        remedy=ORIGINAL,
    )
