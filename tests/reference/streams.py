"""The random numbers of src/analysis/stats/random.rs, made by numpy: SplitMix64 counted up from a key."""
import numpy

STEP = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def _mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def _mix_array(z):
    with numpy.errstate(over="ignore"):
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return z ^ (z >> numpy.uint64(31))


def bits(seed, place, n):
    """The first n numbers of a stream."""
    key = _mix(seed & MASK)
    for part in place:
        key = _mix(key ^ _mix((part + STEP) & MASK))
    with numpy.errstate(over="ignore"):
        state = numpy.uint64(key) + numpy.arange(1, n + 1, dtype=numpy.uint64) * numpy.uint64(STEP)
    return _mix_array(state)


def below(limit, seed, place, n):
    """n numbers below a limit that fits into 32 bits."""
    high, low = bits(seed, place, n) >> numpy.uint64(32), bits(seed, place, n) & numpy.uint64(0xFFFFFFFF)
    limit = numpy.uint64(limit)
    return ((high * limit + (low * limit >> numpy.uint64(32))) >> numpy.uint64(32)).astype(int)


def uniform(seed, place, n):
    return (bits(seed, place, n) >> numpy.uint64(11)).astype(float) / 2.0**53


def sample(spec):
    """shift + scale·(sum of four uniform numbers − 2): a hump, from operations that every machine rounds alike.

    With `levels`, cut down to multiples of 1/levels, so that values tie.
    """
    u = uniform(spec["seed"], spec["place"], 4 * spec["n"]).reshape(-1, 4)
    x = spec["shift"] + spec["scale"] * (u[:, 0] + u[:, 1] + u[:, 2] + u[:, 3] - 2.0)
    return numpy.floor(x * spec["levels"]) / spec["levels"] if spec["levels"] else x
