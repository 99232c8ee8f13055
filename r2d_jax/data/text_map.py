"""Characters that a vocabulary lacks, as written markers; in: a test of characters, out: the markers needed."""

from collections.abc import Callable, Mapping

# Markers are words in brackets: a pretrained model knows the words, and a person can read them.
# T5's own normaliser would turn 10² into 102 and ½ into 1⁄2, so such characters are listed too.
MARKERS: Mapping[str, str] = {
    "<": "[less than]",
    ">": "[more than]",
    "≤": "[at most]",
    "≥": "[at least]",
    "≪": "[much less than]",
    "≫": "[much more than]",
    "≠": "[not equal]",
    "≈": "[approximately]",
    "~": "[about]",
    "±": "[plus minus]",
    "×": "[times]",
    "÷": "[divided by]",
    "−": "[minus]",
    "∞": "[infinity]",
    "√": "[root]",
    "∼": "[similar to]",
    "∆": "[increment]",
    "{": "[open brace]",
    "}": "[close brace]",
    "^": "[caret]",
    "\\": "[backslash]",
    "`": "[backtick]",
    "|": "[bar]",
    "_": "[underscore]",
    "→": "[to]",
    "←": "[from]",
    "↑": "[up]",
    "↓": "[down]",
    "↔": "[both ways]",
    "⇒": "[implies]",
    "°": "[degree]",
    "µ": "[micro]",
    "²": "[squared]",
    "³": "[cubed]",
    "¹": "[superscript 1]",
    "⁰": "[superscript 0]",
    "⁴": "[superscript 4]",
    "⁵": "[superscript 5]",
    "⁶": "[superscript 6]",
    "⁷": "[superscript 7]",
    "⁸": "[superscript 8]",
    "⁹": "[superscript 9]",
    "⁻": "[superscript minus]",
    "⁺": "[superscript plus]",
    "₀": "[subscript 0]",
    "₁": "[subscript 1]",
    "₂": "[subscript 2]",
    "₃": "[subscript 3]",
    "₄": "[subscript 4]",
    "½": "[one half]",
    "¼": "[one quarter]",
    "¾": "[three quarters]",
    "‰": "[per mille]",
    "™": "[trademark]",
    "®": "[registered]",
    "…": "[ellipsis]",
    "·": "[middle dot]",
    "˙": "[dot above]",
    "\u2010": "[hyphen]",
    "\u2011": "[nonbreaking hyphen]",
    "ï": "[i diaeresis]",
    "′": "[prime]",
    "″": "[double prime]",
    "♀": "[female]",
    "♂": "[male]",
    "✓": "[check]",
    "α": "[alpha]",
    "β": "[beta]",
    "γ": "[gamma]",
    "δ": "[delta]",
    "ε": "[epsilon]",
    "ζ": "[zeta]",
    "η": "[eta]",
    "θ": "[theta]",
    "ι": "[iota]",
    "κ": "[kappa]",
    "λ": "[lambda]",
    "μ": "[mu]",
    "ν": "[nu]",
    "ξ": "[xi]",
    "π": "[pi]",
    "ρ": "[rho]",
    "σ": "[sigma]",
    "τ": "[tau]",
    "υ": "[upsilon]",
    "φ": "[phi]",
    "χ": "[chi]",
    "ψ": "[psi]",
    "ω": "[omega]",
    "Γ": "[Gamma]",
    "Δ": "[Delta]",
    "Θ": "[Theta]",
    "Λ": "[Lambda]",
    "Π": "[Pi]",
    "Σ": "[Sigma]",
    "Φ": "[Phi]",
    "Ψ": "[Psi]",
    "Ω": "[Omega]",
    "⁄": "[fraction slash]",
    "⅓": "[one third]",
    "⅔": "[two thirds]",
    "⇔": "[equivalent]",
    "≡": "[identical]",
    "≅": "[congruent]",
    "∝": "[proportional]",
    "\n": "[newline]",
}

LINE_BREAK = "\n"

# Read as one line break before mapping: what files of other systems use for it.
LINE_BREAKS = ("\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c")

# White space to Python but not to a vocabulary's normaliser, which would join the words around it.
SEPARATORS = ("\x1c", "\x1d", "\x1e", "\x1f")


def needed_markers(survives: Callable[[str], bool]) -> dict[str, str]:
    """Markers of those characters that a vocabulary cannot carry.

    Args:
        survives: whether a character comes back unchanged from encode and decode.

    Returns:
        Character to marker. "<" is always there: without it a text could spell an end token.
    """
    return {char: marker for char, marker in MARKERS.items() if char == "<" or not survives(char)}
