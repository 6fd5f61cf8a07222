"""CLIP's two towers through open_clip: images and captions as vectors of one space.

Weights come from open_clip's download, from a file, or are random on request. The model is frozen and in evaluation
mode, which open_clip's own are not: ResNet towers would otherwise take batch statistics from the images at hand. Their
batch norms are then constants, and are folded into the convolutions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gazekit.backbones.folding import fold_batch_norms
from gazekit.backbones.pyramid import WeightsSource, _settle_weights, find_weights, read_state
from gazekit.errors import InputError
from gazekit.registry import unknown_name

_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clip(nn.Module):
    """Image and text towers; embeddings are as the towers give them, not of length one.

    Attributes:
        name: open_clip's name, or ``custom``.
        size_px: Side of the square images.
        context_length: Tokens of a caption, at most.
        source: Which weights these are.

    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, model: nn.Module, get_tokenizer: Callable[[], Any], size_px: int, context_length: int,
        mean: Sequence[float], std: Sequence[float], source: WeightsSource,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.size_px, self.context_length, self.source = name, size_px, context_length, source
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Some tokenizers are downloaded; images are embedded without.
        self._get_tokenizer = get_tokenizer
        self._known_tokenizer: Any = None
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()
        fold_batch_norms(self.model.visual)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> Clip:
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, size_px, size_px) RGB in [0, 1] -> (B, D) embeddings."""
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        embedding: Tensor = self.model.encode_image(x)  # type: ignore[operator]
        return embedding

    @property
    def _tokenizer(self) -> Any:
        if self._known_tokenizer is None:
            self._known_tokenizer = self._get_tokenizer()
        return self._known_tokenizer

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Captions -> (len(captions), D) embeddings; one that is longer than the context is cut, with a warning.

        Raises:
            InputError: The tokenizer needs a package or a download that is not to be had.

        """
        for caption in captions:
            n_tokens = self.count_tokens(caption)
            if n_tokens > self.context_length:
                shown = caption if len(caption) <= 40 else f"{caption[:40]}..."
                warnings.warn(
                    f"caption {shown!r} has {n_tokens} tokens and {self.name} takes {self.context_length}: its end is "
                    "left out",
                    stacklevel=2,
                )
        tokens = self._tokenizer(list(captions), context_length=self.context_length)
        embedding: Tensor = self.model.encode_text(tokens.to(self.mean.device))  # type: ignore[operator]
        return embedding

    def count_tokens(self, caption: str) -> int:
        """Tokens of a caption before it is cut, those of its beginning and end included."""
        if hasattr(self._tokenizer, "encode"):
            return len(self._tokenizer.encode(caption)) + 2
        return len(self._tokenizer.tokenizer(caption)["input_ids"])


def create_clip(name: str | dict[str, Any] = "RN50-quickgelu", weights: str | Path | None = "openai") -> Clip:
    """Build a CLIP by name.

    Args:
        name: open_clip's name of a model (``RN50-quickgelu``, ``ViT-B-32``, ``ViT-B-16-SigLIP``, ...), or a
            configuration in its format (``embed_dim``, ``vision_cfg``, ``text_cfg``).
        weights: A tag of open_clip (``openai``, ``laion2b_s34b_b79k``, ``webli``, ...): a file ``NAME.safetensors`` in
            a weights folder (see :func:`~gazekit.backbones.find_weights`) is taken, else open_clip downloads them; a
            path takes that file (safetensors, or a ``.pt`` of plain tensors); None leaves the weights random.

    Raises:
        InputError: Unknown name or tag; weights missing, unreadable or of another model; or weights that were trained
            with another activation function than the model of this name has.

    """
    import open_clip

    if isinstance(name, dict):
        return _custom(name, weights)
    if name not in open_clip.list_models():
        raise unknown_name("CLIP", name, open_clip.list_models(), " of open_clip")
    file, tag = _find(name, weights)
    if tag is not None:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if tag not in tags:
            mend = f"; or use {name}-quickgelu" if f"{name}-quickgelu" in open_clip.list_models() else ""
            raise unknown_name(f"weights of CLIP {name!r}", tag, tags, mend)
        _check_activation(name, tag)
    download = tag if file is None else None
    try:
        with _quiet():
            model = open_clip.create_model(name, pretrained=download, require_pretrained=download is not None)
    except Exception as error:  # hub clients raise their own families of network errors
        if download is None:
            raise InputError(
                f"CLIP {name!r}: open_clip could not build it ({' '.join(f'{error}'.split())[:120]}); install what it "
                "needs, or take another, such as 'RN50-quickgelu'"
            ) from error
        raise InputError(
            f"CLIP {name!r}: open_clip could not get its weights ({type(error).__name__}); connect to the network, put "
            f"{name}.safetensors into $GAZEKIT_WEIGHTS, give a file as weights, or null for random weights"
        ) from error
    state = read_state(file) if file else None
    source = _settle_weights(model, state, file, f"open_clip:{download}" if download else None)
    config = open_clip.get_model_config(name)
    assert config is not None
    # A file does not say how images were normalised, but all weights of a family were trained alike.
    tags = [tag] if tag is not None else open_clip.list_pretrained_tags_by_model(name)
    about = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    mean, std = about.get("mean", _OPENAI_MEAN), about.get("std", _OPENAI_STD)
    size, length = _side(model), int(config["text_cfg"].get("context_length", 77))
    return Clip(name, model, partial(_tokenizer_of, name), size, length, mean, std, source)


def _tokenizer_of(name: str) -> Any:
    import open_clip

    instead = "leave the captions out, or take a CLIP whose tokenizer comes with open_clip, such as 'RN50-quickgelu'"
    try:
        with _quiet():
            return open_clip.get_tokenizer(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"CLIP {name!r}: its tokenizer needs {error.name}; pip install {error.name}, {instead}"
        ) from error
    except Exception as error:  # as for the weights
        raise InputError(
            f"CLIP {name!r}: open_clip could not get its tokenizer ({type(error).__name__}); connect to the network, "
            f"{instead}"
        ) from error


def _custom(config: dict[str, Any], weights: str | Path | None) -> Clip:
    import open_clip

    file = None if weights is None else Path(weights)
    if file is not None and not file.is_file():
        raise InputError(f"CLIP: weights file {str(file)!r} does not exist; give a file, or null for random weights")
    try:
        with _quiet():
            model = open_clip.CLIP(**config)
    except (TypeError, KeyError, AssertionError) as error:
        raise InputError(f"CLIP: not a configuration that open_clip knows ({error})") from error
    length = int(config["text_cfg"].get("context_length", 77))
    get_tokenizer = partial(open_clip.SimpleTokenizer, context_length=length)
    source = _settle_weights(model, read_state(file) if file else None, file, None)
    return Clip("custom", model, get_tokenizer, _side(model), length, _OPENAI_MEAN, _OPENAI_STD, source)


def _find(name: str, weights: str | Path | None) -> tuple[Path | None, str | None]:
    """The weights' file on this machine, and the tag under which open_clip knows them."""
    if weights is None:
        return None, None
    given = Path(weights).expanduser()
    if given.suffix or given.parent != Path():
        if not given.is_file():
            raise InputError(
                f"CLIP {name!r}: weights file {str(given)!r} does not exist; give a .safetensors or .pt file, a tag of "
                "open_clip such as 'openai', or null for random weights"
            )
        return given, None
    return find_weights(name), str(weights)


def _check_activation(name: str, tag: str) -> None:
    """OpenAI's weights were trained with an approximate GELU: under the exact one, embeddings come out altered."""
    import open_clip

    config = open_clip.get_model_config(name) or {}
    trained = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    if trained and not config.get("quick_gelu", False):
        raise InputError(
            f"CLIP {name!r}: weights {tag!r} were trained with another activation function, and embeddings would be "
            f"altered; use '{name}-quickgelu'"
        )


def _side(model: Any) -> int:
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise InputError(f"CLIP takes images of {width}x{height} px here, and only square ones are supported")
    return int(height)


class _quiet:  # noqa: N801  # reads as a statement
    """open_clip warns, through logging, of everything that is checked here."""

    def __enter__(self) -> None:
        self._level = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._level)
