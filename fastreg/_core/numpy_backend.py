import numpy as np
from fastreg import _kernels as functional
from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import F16,BF16,F32,F64
from typing import Any
SHORTEST=1e-7
_BLOCK_ELEMENTS = 1 << 21
_WORK={F16:np.float32,BF16:np.float32,F32:np.float32,F64:np.float64}
def cosines(host: HostArray, factor: float, rows: bool, want: bool) -> tuple[float, Any]:
    """Return the value in float64, and if wanted the gradient in the type it was computed in."""
    work = _WORK.get(host.dtype, np.float64)
    data = host.data
    if host.dtype is BF16:
        data = (np.ascontiguousarray(data).astype(np.uint32) << 16).view(np.float32)
    lines = data if rows else data.T
    n = lines.shape[0]
    if n < 2 or factor == 0.0:
        return 0.0, np.zeros(data.shape, work)
    norms = np.array([functional.norm(line, dtype=np.float64) for line in lines])
    with np.errstate(all="ignore"):  # NaN and infinity are answers, not accidents
        longest = np.maximum(norms, SHORTEST)
        units = (lines / longest[:, None]).astype(work, copy=False)
        pairs = float(n) * (n - 1)
        sums = []
        slope = np.empty_like(units) if want else None
        step = max(1, _BLOCK_ELEMENTS // n)
        for first in range(0, n, step):
            gram = units[first : first + step] @ units.T
            inside = np.arange(gram.shape[0])
            gram[inside, inside + first] = 0.0
            sums.append(functional.sum_abs(gram, dtype=np.float64))
            if slope is not None:
                slope[first : first + step] = np.sign(gram, out=gram) @ units
        value = factor / pairs * float(functional.sum_abs(np.array(sums)))
        if slope is None:
            return value, None
        slope *= work(2.0 * factor / pairs)
        # Of the unit vector: what points along it is lost, unless its length was the clamp's.
        along = np.einsum("ij,ij->i", units, slope)
        along[norms < SHORTEST] = 0.0
        slope -= units * along[:, None]
        slope /= longest[:, None].astype(work)
    return value, slope if rows else slope.T
