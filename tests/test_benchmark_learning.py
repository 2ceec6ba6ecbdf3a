"""The learning benchmark counts matrix products exactly and measures what it names."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import learning
from benchmarks.small_settings import SMALL, small_config

LEFT, RIGHT = jnp.ones((3, 5)), jnp.ones((5, 7))
ONE = 2.0 * 3 * 5 * 7


def test_a_product_counts_each_multiplication_and_addition() -> None:
    assert learning.matmul_flop(jnp.matmul, LEFT, RIGHT) == ONE
    batch = learning.matmul_flop(jax.vmap(jnp.matmul), jnp.ones((4, 3, 5)), jnp.ones((4, 5, 7)))
    assert batch == 4 * ONE


def test_a_loop_counts_with_its_length_and_inner_programs_once() -> None:
    @jax.jit
    def thrice(left: jax.Array, right: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (c, c[0] @ c[1]), (left, right), None, length=3)[1]

    assert learning.matmul_flop(thrice, LEFT, RIGHT) == 3 * ONE


def test_a_gradient_of_both_factors_takes_three_products() -> None:
    def loss(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(left @ right))

    assert learning.matmul_flop(jax.grad(loss, argnums=(0, 1)), LEFT, RIGHT) == 3 * ONE


def test_the_larger_branch_counts() -> None:
    def either(left: jax.Array, right: jax.Array) -> jax.Array:
        return jax.lax.cond(
            left[0, 0] > 0, lambda: left @ right @ right.T, lambda: jnp.zeros((3, 5))
        )

    assert learning.matmul_flop(either, LEFT, RIGHT) == 2 * ONE


def test_rows_agree_with_each_other() -> None:
    config = small_config(SMALL)
    programs = learning.compile_programs(config, [1], "^cost$", compilers=2)
    peak, row = learning.measure(programs, turns=1, turn_s=0.0)
    assert (peak.name, peak.share_of_peak) == (learning.PEAK, pytest.approx(1.0))
    assert peak.gflop == pytest.approx(2e-9 * learning.PEAK_SIZE**3)
    rate = row.gflop * row.members / row.ms
    devices = len(jax.local_devices())
    assert row.share_of_peak == pytest.approx(rate / (peak.gflop * devices / peak.ms))
    assert row.name == "cost" and row.compile_s > 0 and row.gflop > 0
    assert learning.table([peak, row]).splitlines()[-1].startswith("| cost | 1 | ")


def test_a_pattern_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="found no row of that name"):
        learning.compile_programs(small_config(SMALL), [1], "nothing")


def test_kernels_are_those_of_a_gpu() -> None:
    product = learning.matrix_product()
    program = learning.Program(product, product.function, 0.0)
    kernels = learning.kernels_of(program, 3)
    if jax.default_backend() == "cpu":
        assert kernels == []
    else:
        assert kernels[-1]["name"] == "all" and sum(x["share"] for x in kernels[:-1]) <= 1
    row = learning.Row("product", 1, 1.0, 1.0, 1.0, 0.0, None)
    one = {"name": "gemm", "ms": 0.5, "launches": 2, "share": 1.0}
    shown = learning.kernel_table(row, [one]).splitlines()
    assert shown[-1] == "| gemm | 0.500 | 100% | 2 |"
    assert "no kernels of a GPU" in learning.kernel_table(row, [])
