"""Which scheme each matrix is stored in: the one that was named, or with `auto` what the source's own values need.

Knows requests, what a source holds and the table; nothing of files. `auto` keeps what is quantized and gives floats the
default; what a recipe says of a matrix by its role wins over both.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ..errors import WispError
from ..models.base import Role, WeightSpec
from .kept import Held, bits_per_weight
from .schemes import EXCEPTED_ROLES, IN_ACT_ORDER, SCHEMES, STORED, MatrixKey, Scheme, with_exceptions, with_matrices

AUTO = "auto"
DEFAULT_QUANTIZATION = "q4af16_g64"  # of floats; tests/benchmarks/README.md has the evidence
DEFAULT_OF_SPEECH = "q8f16_1"  # in 4 bits Whisper hears other words
MERGED = "q8f16_1"  # of a kept matrix that an adapter changes: its values are new ones


def choose_scheme(
    quantization: str,
    overrides: Mapping[Role, str],
    held: Mapping[MatrixKey, Held | None],
    merged: Collection[MatrixKey] = (),
    default: str = DEFAULT_QUANTIZATION,
) -> Scheme:
    """The scheme of the network, with the matrices that are stored in others.

    `held` says of every matrix what the source holds it in; `merged` are those that an adapter changes. `default` is
    what `auto` makes of floats.
    """
    if quantization != AUTO:
        return with_exceptions(SCHEMES[quantization], overrides)
    kept = {key: found.scheme for key, found in held.items() if found is not None}
    obstacle = next((h.obstacle for key, h in held.items() if h and h.obstacle and key not in merged), None)
    if obstacle is not None:
        raise WispError(obstacle, remedy=f"name a scheme, which quantizes again: --quant {MERGED}")
    if not kept:
        return with_exceptions(SCHEMES[default], overrides)
    changed = {key: SCHEMES[MERGED] for key, scheme in kept.items() if key in merged and scheme.group_size}
    named: dict[MatrixKey, Scheme] = {(role, None): SCHEMES[name] for role, name in overrides.items()}
    # The network is called after the scheme of most of its matrices, in whatever order columns are.
    counts = Counter(scheme.name.removesuffix(IN_ACT_ORDER) for scheme in kept.values())
    base = STORED[max(counts, key=lambda name: (counts[name], name in SCHEMES, -bits_per_weight(STORED[name])))]
    return with_matrices(base, {**kept, **changed, **named})


def scheme_names(scheme: Scheme, specs: Sequence[WeightSpec]) -> dict[str, str]:
    """The matrices that are not stored in the network's scheme, by name: as model.json has them."""
    return {spec.name: scheme.of(spec).name for spec in specs if scheme.of(spec).name != scheme.name}


def role_names(scheme: Scheme) -> dict[str, str]:
    """The same of the matrices that a recipe may name, by role."""
    return {role: own.name for (role, _), own in scheme.exceptions if role in EXCEPTED_ROLES}


def scheme_of_model(model: Mapping[str, object], base: Scheme, specs: Sequence[WeightSpec]) -> Scheme:
    """The scheme that model.json states: `base`, which is its `quantization`, and what is said of single matrices."""
    overrides, names = model.get("quantization_overrides") or {}, model.get("schemes") or {}
    keys = {spec.name: (spec.role, spec.layer) for spec in specs if spec.kind == "matrix"}
    if not isinstance(overrides, Mapping) or not isinstance(names, Mapping):
        raise WispError("model.json schemes are not usable", expected="objects of names")
    for name, scheme in names.items():
        if name not in keys or not isinstance(scheme, str) or scheme not in STORED:
            raise WispError(
                "model.json schemes are not usable",
                got=f"{name}: {scheme}",
                expected=f"matrices of the network, each {' or '.join(STORED)}",
                remedy="compile it again with this version of Wisp",
            )
    roles = with_exceptions(base, overrides, "model.json quantization_overrides")
    return with_matrices(base, {**dict(roles.exceptions), **{keys[name]: STORED[own] for name, own in names.items()}})
