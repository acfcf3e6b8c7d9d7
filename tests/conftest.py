"""Settings of every test, made when pytest loads this file and before jax has a backend.

Eight host devices stand for a node, arrays of different rank never meet unseen, and compiled programs are
kept between runs in `.cache/jax` of the checkout: compiling is most of what the tests cost.
"""

import pathlib

import jax
import pytest

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
MAPS = pathlib.Path("/proc/self/maps")  # Linux only
MOST_MAPS = 20_000

jax.config.update("jax_num_cpu_devices", 8)  # raises if jax has been used already
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_configure(config):
    # Two test runs at once may read an entry that the other is still writing. jax then compiles, so nothing
    # is lost.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache:UserWarning")


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Compiled programs hold memory maps, several for each; past the kernel's limit (vm.max_map_count, 65530 as a
    rule) XLA dies with a segmentation fault. So they are let go in time; the cache on disk has them if they are wanted
    again."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def quick_compilation(request):
    """Large programs that are compiled for a few small numbers skip most of the optimisation, which halves the time.
    Tests marked optimised do not."""
    if request.node.get_closest_marker("optimised"):
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
