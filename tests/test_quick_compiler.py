"""The quick compiler of the tests; in: a program, out: proof that its settings come to XLA and leave no trace."""

import jax
import numpy as np
import pytest
import quick_compiler
from jax._src import compiler


def compiled(number: float) -> None:
    """A program that nothing has compiled before."""
    jax.jit(lambda x: x * number + 1).lower(np.ones(3, np.float32)).compile()


def test_what_is_compiled_in_it_gets_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a private function of jax that is replaced: unused, the tests would only take three times as long."""
    asked = []
    plain = compiler.get_compile_options

    def told(*arguments: object, **named: object) -> object:
        options = plain(*arguments, **named)
        asked.append(dict(options.env_option_overrides))
        return options

    monkeypatch.setattr(compiler, "get_compile_options", told)
    with quick_compiler.quickly():
        compiled(2.5)
        assert compiler.get_compile_options is not told
    assert compiler.get_compile_options is told
    assert [quick_compiler.OPTIONS.items() <= options.items() for options in asked] == [True]
    compiled(3.5)
    assert not asked[1].keys() & quick_compiler.OPTIONS.keys()


def test_xla_reads_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that XLA does not have is refused, so these names are known to it and are not passed over."""
    monkeypatch.setitem(quick_compiler.OPTIONS, "xla_no_such_setting", True)
    with quick_compiler.quickly(), pytest.raises(Exception, match="xla_no_such_setting"):
        compiled(4.5)
