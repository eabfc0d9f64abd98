"""A UNet2DModel conditioned on the class and the styles of the image.

This file is saved beside the weights and loaded from there, so it imports nothing of the project.
"""

import torch
import torch.nn.functional as F
from diffusers import ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

# diffusers looks for the base class in the module of a component that it loads by name.
__all__ = ["ClassStyleUNet2DModel", "ModelMixin"]


class ClassStyleUNet2DModel(UNet2DModel):
    """UNet2DModel whose class and style embeddings are added to the time embedding.

    Besides `UNet2DModel`'s arguments (`in_channels` and `out_channels` count the image's channels):

    num_classes: number of classes; the class id `num_classes` means "unspecified".
    num_styles: number of styles, each with a strength in [0, 1]; a row of -1 means "unspecified".
    num_augments: number of parameters of the non-leaking augmentation, 0 when sampling
        (Karras et al. 2022, https://arxiv.org/abs/2206.00364, Appendix F.2).
    patch_size: 1, 2 or 4. The image is folded into patch_size**2 times the channels at the input and unfolded at
        the output, which makes every layer patch_size**2 times cheaper.
    conditioning: "add" sums the embeddings of class and style, "concat" concatenates and projects them.
    class_embedding: "table" (one row for each class) or "one_hot_mlp".
    skip_connections: False hands the way up zeros in place of what the way down saw; the layers stay the same.
    time_conditioning: False gives every layer time 0, whatever the time is.

    Images whose size is no multiple of the total downsampling are padded with zeros inside and cropped again.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: tuple[int, ...] = (64, 128),
        layers_per_block: int = 1,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: int | None = 32,
        norm_num_groups: int = 8,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        class_embed_type: str = "identity",
        num_class_embeds: None = None,
        num_train_timesteps: int | None = None,
        num_classes: int = 0,
        num_styles: int = 0,
        num_augments: int = 0,
        patch_size: int = 1,
        conditioning: str = "add",
        class_embedding: str = "table",
        skip_connections: bool = True,
        time_conditioning: bool = True,
    ):
        _check_choice("class_embed_type", class_embed_type, ("identity",))  # the parent adds our vector as it is
        _check_choice("num_class_embeds", num_class_embeds, (None,))
        _check_choice("conditioning", conditioning, ("add", "concat"))
        _check_choice("class_embedding", class_embedding, ("table", "one_hot_mlp"))
        attend = attention_widths(down_block_types, up_block_types, block_out_channels, mid_block_type, add_attention)
        check_shape(block_out_channels, attend, norm_num_groups, attention_head_dim, patch_size)
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels * patch_size**2,
            out_channels=out_channels * patch_size**2,
            center_input_sample=center_input_sample,
            time_embedding_type=time_embedding_type,
            time_embedding_dim=time_embedding_dim,
            freq_shift=freq_shift,
            flip_sin_to_cos=flip_sin_to_cos,
            down_block_types=down_block_types,
            mid_block_type=mid_block_type,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            mid_block_scale_factor=mid_block_scale_factor,
            downsample_padding=downsample_padding,
            downsample_type=downsample_type,
            upsample_type=upsample_type,
            dropout=dropout,
            act_fn=act_fn,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=attn_norm_num_groups,
            norm_eps=norm_eps,
            resnet_time_scale_shift=resnet_time_scale_shift,
            add_attention=add_attention,
            class_embed_type=class_embed_type,
            num_train_timesteps=num_train_timesteps,
        )
        # The parent registered the folded channels.
        self.register_to_config(in_channels=in_channels, out_channels=out_channels)
        # diffusers looks a name up in the configuration before the modules; a plain attribute comes before both.
        self.__dict__["class_embedding"] = self._modules.pop("class_embedding")
        dim = time_embedding_dim or block_out_channels[0] * 4
        self.multiple = patch_size * 2 ** (len(block_out_channels) - 1)
        if class_embedding == "table":
            self.class_embed: nn.Module = nn.Embedding(num_classes + 1, dim)
        else:
            self.class_embed = nn.Sequential(nn.Linear(num_classes + 1, dim), nn.SiLU(), nn.Linear(dim, dim))
        if num_styles:
            # One input for each strength, and one that says that the styles are given.
            self.style_embed = nn.Sequential(nn.Linear(num_styles + 1, dim), nn.SiLU(), nn.Linear(dim, dim))
        if num_augments:
            self.augment_embed = nn.Linear(num_augments, dim, bias=False)
        if conditioning == "concat":
            self.condition_proj = nn.Linear(dim * (2 if num_styles else 1), dim)
        if not skip_connections:
            for block in self.up_blocks:
                block.register_forward_pre_hook(_without_skips)

    def condition(
        self,
        batch_size: int,
        class_labels: Tensor | None = None,
        style_weights: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Class ids (B,) int64 and strengths (B, S) -> the vector (B, time_embedding_dim) beside the time embedding."""
        config = self.config
        if class_labels is None:
            class_labels = torch.full((batch_size,), config.num_classes, device=self.device)
        if config.class_embedding == "table":
            parts = [self.class_embed(class_labels)]
        else:
            parts = [self.class_embed(F.one_hot(class_labels, config.num_classes + 1).to(self.dtype))]
        if config.num_styles:
            if style_weights is None:
                style_weights = torch.full((batch_size, config.num_styles), -1.0, device=self.device)
            given = (style_weights >= 0).all(dim=1, keepdim=True)  # (B, 1)
            inputs = torch.cat([style_weights.where(given, 0.0), given], dim=1).to(self.dtype)  # (B, S + 1)
            parts.append(self.style_embed(inputs))
        vector = self.condition_proj(torch.cat(parts, dim=1)) if config.conditioning == "concat" else sum(parts)
        if config.num_augments:
            if augment_labels is None:
                augment_labels = torch.zeros((batch_size, config.num_augments), device=self.device)
            vector = vector + self.augment_embed(augment_labels.to(self.dtype))
        return vector

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        style_weights: Tensor | None = None,
        return_dict: bool = True,
        augment_labels: Tensor | None = None,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict, from noisy images (B, C, H, W), what the objective asks for, in the same shape.

        timestep: (B,) or a scalar; fractions are kept. class_labels: (B,) int64, `num_classes` for unspecified.
        style_weights: (B, S) in [0, 1], a row of -1 for unspecified. None means that all are unspecified.
        """
        if not torch.is_tensor(timestep):  # the parent would truncate a Python float to an integer
            timestep = torch.tensor(timestep, dtype=torch.float32, device=sample.device)
        if not self.config.time_conditioning:
            timestep = torch.zeros_like(timestep)
        condition = self.condition(len(sample), class_labels, style_weights, augment_labels)
        height, width = sample.shape[-2:]
        pad_h, pad_w = -height % self.multiple, -width % self.multiple
        top, left = pad_h // 2, pad_w // 2
        folded = F.pixel_unshuffle(
            F.pad(sample, (left, pad_w - left, top, pad_h - top)), self.config.patch_size
        )  # (B, C p^2, H', W')
        output = super().forward(folded, timestep, class_labels=condition, return_dict=False)[0]
        output = F.pixel_shuffle(output, self.config.patch_size)[..., top : top + height, left : left + width]
        return UNet2DOutput(sample=output) if return_dict else (output,)


def _without_skips(block: nn.Module, args: tuple) -> tuple:
    """The arguments of a block of the way up, (B, C, H, W) and its skip states first, with those states zero."""
    sample, states, *others = args
    return sample, tuple(torch.zeros_like(state) for state in states), *others


def attention_widths(
    down: tuple[str, ...], up: tuple[str, ...], widths: tuple[int, ...], mid: str | None, mid_attends: bool
) -> set[int]:
    """The widths of the levels that attend."""
    blocks = [*zip(down, widths, strict=False), *zip(reversed(up), widths, strict=False)]
    return {width for name, width in blocks if "Attn" in name} | ({widths[-1]} if mid and mid_attends else set())


def check_shape(
    widths: tuple[int, ...], attend: set[int], norm_num_groups: int, attention_head_dim: int | None, patch_size: int
) -> None:
    """ValueError where the norm groups do not divide a width, or the heads one of a level that attends."""
    _check_choice("patch_size", patch_size, (1, 2, 4))
    for width in widths:
        if norm_num_groups < 1 or width % norm_num_groups:
            raise ValueError(
                f"width {width} of block_out_channels {tuple(widths)} is not divisible by "
                f"norm_num_groups {norm_num_groups}"
            )
    for width in attend:
        if attention_head_dim is not None and (attention_head_dim < 1 or width % attention_head_dim):
            raise ValueError(f"attention_head_dim {attention_head_dim} does not divide the width {width} of a level")


def _check_choice(name: str, value: object, valid: tuple) -> None:
    if value not in valid:
        raise ValueError(f"{name} {value!r}; valid: {', '.join(map(str, valid))}")
