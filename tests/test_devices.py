import pytest

from proco_jax.devices import devices_for


@pytest.mark.parametrize(
    ("seeds", "cores", "devices"),
    [
        (5, 2, 5),
        (4, 2, 2),
        (1, 8, 1),
        (100, 2, 2),
        (100, 16, 20),
        (7, 16, 7),
        (97, 2, 1),
        (6, 4, 6),
    ],
)
def test_devices_share_the_seeds_evenly_and_keep_the_cores_busy(seeds, cores, devices):
    assert devices_for(seeds, cores) == devices


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_devices_always_divide_the_seeds(cores):
    for seeds in range(1, 50):
        assert seeds % devices_for(seeds, cores) == 0 and devices_for(seeds, cores) <= 4 * cores
