"""The API reference; in: docstrings of r2d_jax, out: HTML pages in a folder (default: site/api).

python docs/build_api.py [FOLDER]
"""

import os
import pathlib
import sys
import warnings

import pdoc
import pdoc.render

ROOT = pathlib.Path(__file__).parents[1]
# The constructor of a pydantic dataclass names a type of type stubs, which no program can import.
_OF_PYDANTIC = (
    r"(Failed to run TYPE_CHECKING code while parsing|Error parsing type annotation) PydanticDataclass"
)


def main() -> None:
    """Write the pages; a module that cannot be imported or an annotation that cannot be read is a warning."""
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site" / "api")
    # The modules are imported: from this clone, and without taking an accelerator from a run.
    sys.path.insert(0, str(ROOT))
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.filterwarnings("ignore", message=_OF_PYDANTIC, category=UserWarning)
    # Sources lie beside; with them the pages take five times the space.
    pdoc.render.configure(docformat="google", show_source=False, footer_text="r2d_jax")
    pdoc.pdoc("r2d_jax", output_directory=folder)
    print(f"written: {folder / 'index.html'}")


if __name__ == "__main__":
    main()
