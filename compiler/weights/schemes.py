"""Storage schemes: a table of values, and which matrix of a network is stored by which row of it.

A scheme says how many bits an element takes, how many elements share a scale, and whether they share a bias as well.
Whoever packs, reads or multiplies weights reads these numbers; nobody compares names, which are for people and files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import WispError
from ..models.base import Role, WeightSpec
from .storage import Storage

EXCEPTED_ROLES: tuple[Role, ...] = ("embedding", "lm_head")  # what a recipe may store in another scheme
MatrixKey = tuple[Role, int | None]  # of a matrix: its role and its layer


@dataclass(frozen=True)
class Scheme:
    """How matrices are stored. `group_size` 0: not quantized, each element is a float of `bits` bits.

    Otherwise `group_size` elements along a row share a scale. With `bias` they share a bias, too, and an element is
    `q * scale + bias` (affine); without, it is `(q - zero_point) * scale` (symmetric). q is in `0..largest`. With
    `zeros` an affine group has a whole number, its zero point, in place of the bias: that is `-zero * scale`, which
    float16 need not hold. `ordered`: columns are stored in another order, in which those that share a scale follow each
    other, and the order with them; products gather activations in it. With a `codebook` an element is
    `codebook[q] * scale`.
    """

    name: str
    bits: int
    group_size: int
    bias: bool
    float_dtype: Literal["float16", "float32"]  # of vectors, and of matrices when group_size is 0
    kv_dtype: Literal["float16", "float32"]  # of keys and values
    zero_point: int = 0  # what q is counted from, where there is no bias
    zeros: bool = False
    ordered: bool = False
    codebook: tuple[int, ...] = ()
    exceptions: tuple[tuple[MatrixKey, "Scheme"], ...] = ()  # matrices that are stored in another scheme

    def of(self, spec: WeightSpec) -> "Scheme":
        """The scheme that a weight is stored in: this one, or what its matrix is excepted to."""
        return dict(self.exceptions).get((spec.role, spec.layer), self) if spec.kind == "matrix" else self

    @property
    def storage(self) -> Storage:
        """What kernels need to know of it."""
        return Storage(self.bits, self.group_size, self.bias, self.zero_point, self.zeros, self.codebook)

    @property
    def largest(self) -> int:
        """The largest q. MLC's schemes have as many steps below their zero point as above it."""
        return 2**self.bits - 1 if self.bias else min(2**self.bits - 1, 2 * self.zero_point)

    @property
    def reach(self) -> int:
        """Steps on either side of the zero point."""
        return self.largest - self.zero_point

    @property
    def words_per_group(self) -> int:
        return self.storage.words(self.group_size)

    def groups(self, columns: int) -> int:
        """Groups in a row of `columns` elements; the last one may be partial."""
        return self.storage.groups(columns)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        # MLC's.
        Scheme("q4f16_1", 4, 32, False, "float16", "float16", 7),
        Scheme("q8f16_1", 8, 32, False, "float16", "float16", 127),
        Scheme("q0f16", 16, 0, False, "float16", "float16"),
        Scheme("q0f32", 32, 0, False, "float32", "float32"),
        # What other formats hold.
        Scheme("q4af16_g16", 4, 16, True, "float16", "float16"),
        Scheme("q4af16_g32", 4, 32, True, "float16", "float16"),
        Scheme("q4af16_g64", 4, 64, True, "float16", "float16"),
        Scheme("q4af16_g128", 4, 128, True, "float16", "float16"),
        Scheme("q8af16_g16", 8, 16, True, "float16", "float16"),
        Scheme("q8af16_g32", 8, 32, True, "float16", "float16"),
        Scheme("q8af16_g64", 8, 64, True, "float16", "float16"),
        Scheme("q8af16_g128", 8, 128, True, "float16", "float16"),
        Scheme("q4f16_g16", 4, 16, False, "float16", "float16", 7),
        Scheme("q8f16_g16", 8, 16, False, "float16", "float16", 127),
        # With bits above four apart.
        Scheme("q5f16_g32", 5, 32, False, "float16", "float16", 16),
        Scheme("q5af16_g32", 5, 32, True, "float16", "float16"),
        Scheme("q6f16_g16", 6, 16, False, "float16", "float16", 32),
        Scheme("q6af16_g16", 6, 16, True, "float16", "float16"),
        # With zero points, as AWQ and GPTQ have them.
        Scheme("q4zf16_g32", 4, 32, True, "float16", "float16", zeros=True),
        Scheme("q4zf16_g64", 4, 64, True, "float16", "float16", zeros=True),
        Scheme("q4zf16_g128", 4, 128, True, "float16", "float16", zeros=True),
        Scheme("q8zf16_g32", 8, 32, True, "float16", "float16", zeros=True),
        Scheme("q8zf16_g64", 8, 64, True, "float16", "float16", zeros=True),
        Scheme("q8zf16_g128", 8, 128, True, "float16", "float16", zeros=True),
    )
}
# Those below hold what came so; nothing is quantized to them. In act-order: the order is the source's.
IN_ACT_ORDER = "_act"
ORDERED: dict[str, Scheme] = {
    own.name: own for own in (replace(s, name=s.name + IN_ACT_ORDER, ordered=True) for s in SCHEMES.values() if s.zeros)
}
# That of ggml's IQ4_NL and IQ4_XS (`kvalues_iq4nl`), in rising order.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
CODED: dict[str, Scheme] = {
    "q4cf16_g32": Scheme("q4cf16_g32", 4, 32, False, "float16", "float16", codebook=IQ4_VALUES),
}
STORED = SCHEMES | ORDERED | CODED  # all that a matrix may be stored in


def with_exceptions(scheme: Scheme, exceptions: Mapping[Any, Any], where: str = "quantization_overrides") -> Scheme:
    """The scheme with matrices of some roles in others, by name. Raises WispError for what is not known."""
    found: dict[MatrixKey, Scheme] = {}
    for role, name in exceptions.items():
        known = next((known for known in EXCEPTED_ROLES if known == role), None)
        if known is None:
            raise WispError(f"{where} has an unknown key", got=role, expected=" or ".join(EXCEPTED_ROLES))
        if not isinstance(name, str) or name not in SCHEMES:
            raise WispError(f"{where} {role} is not known", got=repr(name), expected=" or ".join(SCHEMES))
        found[known, None] = SCHEMES[name]
    return with_matrices(scheme, found)


def with_matrices(scheme: Scheme, matrices: Mapping[MatrixKey, Scheme]) -> Scheme:
    """The scheme with each of these matrices in one of its own."""
    others = {key: own for key, own in matrices.items() if own.name != scheme.name}
    ordered = sorted(others.items(), key=lambda item: (item[0][0], -1 if item[0][1] is None else item[0][1]))
    return replace(scheme, exceptions=tuple((key, replace(own, exceptions=())) for key, own in ordered))
