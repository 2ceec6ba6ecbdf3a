from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.common.compiler import jit_compile_fast, jit_run_once


def mixed(x):
    return x @ jax.random.normal(jax.random.key(0), (3, 2)) + jnp.tanh(x).sum()


def test_a_program_that_runs_once_computes_what_the_optimized_one_does():
    x = jnp.linspace(-1.0, 2.0, 12).reshape(4, 3)
    optimized: dict[str, Any] = {"xla_backend_optimization_level": 3}
    expected = jax.jit(mixed, compiler_options=optimized)(x)
    np.testing.assert_allclose(jit_run_once(mixed)(x), expected, rtol=1e-5)
    np.testing.assert_allclose(jit_compile_fast(mixed)(x), expected, rtol=1e-5)


def test_a_program_that_runs_once_is_compiled_once():
    traced = []

    def function(x):
        traced.append(x)
        return 2 * x

    once = jit_run_once(function)
    assert once(jnp.ones(3)).tolist() == once(jnp.ones(3)).tolist() == [2, 2, 2]
    assert len(traced) == 1


def test_accelerators_and_flags_of_the_user_are_left_alone(monkeypatch):
    options = []

    def jit(function, static_argnums, compiler_options):
        options.append(compiler_options)
        return function

    monkeypatch.setattr(jax, "jit", jit)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=true")
    jit_compile_fast(mixed)(jnp.ones((4, 3)))
    jit_run_once(mixed)(jnp.ones((4, 3)))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jit_run_once(mixed)(jnp.ones((4, 3)))
    assert options == [None, {"xla_backend_optimization_level": 0}, None]


def test_static_arguments_are_part_of_the_program():
    power = jit_compile_fast(lambda n, x: x**n, static_argnums=0)
    assert [float(power(n, jnp.float32(3.0))) for n in (1, 2)] == [3.0, 9.0]


def test_a_program_that_runs_once_is_part_of_a_program_around_it():
    once, x = jit_run_once(mixed), jnp.ones((4, 3))
    assert jax.eval_shape(lambda: once(x)).shape == (4, 2)
    np.testing.assert_allclose(jax.jit(lambda x: once(x))(x), mixed(x), rtol=1e-5)
