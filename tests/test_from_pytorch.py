"""What docs/from_pytorch.md says: its code on a folder with a .bin file, and its settings against config.py."""

import pathlib
import re

import pytest
from safetensors.numpy import load_file
from t5_cases import SHAPES, bitwise_equal, random_weights

from r2d_jax.config_file import load_config
from r2d_jax.config_identity import all_settings
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.model.hf_format import read_hf_folder, write_hf_folder

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "from_pytorch.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_makes_weights_that_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    shape = SHAPES["tied_relu"]
    tokenizer = Tokenizer.train(["the cat sat", "a cat ran"], 30)
    old, new = tmp_path / "old_model", tmp_path / "new_model"
    write_hf_folder(old, shape, random_weights(shape), generation={}, extra_files=tokenizer.files())
    stored = {name: torch.from_numpy(array) for name, array in load_file(old / "model.safetensors").items()}
    torch.save(stored, old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"only as pickle"):
        read_hf_folder(old)
    code = PAGE.split("```python\n")[1].split("```")[0]
    exec(code.replace('"old_model"', repr(str(old))).replace('"new_model"', repr(str(new))), {})
    assert bitwise_equal(read_hf_folder(new)[1], random_weights(shape))
    assert Tokenizer.load(new).encode("the cat") == tokenizer.encode("the cat")


def test_the_settings_of_the_page_are_there():
    known = all_settings(load_config(None, ["data.source=triage"]))
    named = re.findall(r"`((?:data|model|tokenizer|evaluation|stage[12N])\.[\w.]+)(?==|`|\s)", PAGE)
    assert len(named) > 20
    for name in named:
        for one in [name.replace("stageN", stage) for stage in ("stage1", "stage2")]:
            assert one in known, one
