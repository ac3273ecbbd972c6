"""Models of pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _with_statistics(module: nn.Module) -> nn.Module:
    """Give batch norms statistics as after training."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.3, 0.3)
            part.running_var.uniform_(0.5, 2.0)
    return module


class Residual(nn.Module):
    """The basic block of ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        plain = stride == 1 and inputs == outputs
        self.short = (
            nn.Identity()
            if plain
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.norms[1](self.second(torch.relu(self.norms[0](self.first(maps)))))
        return torch.relu(inside + self.short(maps))


def resnet(widths: tuple[int, ...] = (64, 128, 256, 512), depth: int = 2, classes: int = 1000) -> nn.Module:
    """ResNet-18 of He et al. 2016 with the usual widths; smaller ones of the same build."""
    parts: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 7, 2, 3, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(depth):
            parts.append(Residual(before, width, 2 if stage and not block else 1))
            before = width
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return _with_statistics(nn.Sequential(*parts))


class Inverted(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 3 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU(), nn.Conv2d(8, wide, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.depth(self.expand(maps))
        return maps + self.project(inside * self.squeeze(inside))


def mobilenet() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return _with_statistics(nn.Sequential(*stem, Inverted(8), Inverted(8), *head))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, layer norm, inverted bottleneck, layer scale: Liu et al. 2022."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.norm(self.depth(maps).permute(0, 2, 3, 1))
        return maps + (self.gamma * self.project(nn.functional.gelu(self.expand(inside)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 4, 4), ConvNeXtBlock(12), ConvNeXtBlock(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(12), nn.Linear(12, 5),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels down and up again, with skips: Ronneberger et al. 2015."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([self._block(1, width), self._block(width, 2 * width)])
        self.bottom = self._block(2 * width, 4 * width)
        self.rise = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
        )
        self.up = nn.ModuleList([self._block(4 * width, 2 * width), self._block(2 * width, width)])
        self.head = nn.Conv2d(width, 2, 1)
        _with_statistics(self)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        first = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        kept, maps = [], images
        for block in self.down:
            maps = block(maps)
            kept.append(maps)
            maps = nn.functional.max_pool2d(maps, 2)
        maps = self.bottom(maps)
        for rise, block in zip(self.rise, self.up, strict=True):
            maps = block(torch.cat([kept.pop(), rise(maps)], dim=1))
        return self.head(maps)


class ViT(nn.Module):
    """Patches, a class token, positions, an encoder: Dosovitskiy et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        every = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1) + self.places
        return self.head(self.encoder(every)[:, 0])


class Detector(nn.Module):
    """The ten best of 64 boxes, with the overlaps of all pairs, and those that non-maximum suppression keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.body(images)
        scores, order = torch.sigmoid(self.scores(maps)).flatten(1).topk(10, dim=1)
        boxes = self.boxes(maps).flatten(2).transpose(1, 2)
        boxes = boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
        corner, size = boxes[..., :2], torch.exp(boxes[..., 2:])
        low = torch.maximum(corner.unsqueeze(2), corner.unsqueeze(1))
        high = torch.minimum((corner + size).unsqueeze(2), (corner + size).unsqueeze(1))
        shared = (high - low).clamp(min=0).prod(dim=3)
        area = size.prod(dim=2)
        overlap = shared / (area.unsqueeze(2) + area.unsqueeze(1) - shared)
        worse = (overlap > 0.5) & torch.ones(10, 10, dtype=torch.bool).tril(-1)
        return scores, torch.cat([corner, size], dim=2), ~worse.any(dim=2)


class Picture(nn.Module):
    """A filter whose picture is rounded to bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return (torch.sigmoid(self.filter(images / 255)) * 255).round().clamp(0, 255).to(torch.uint8)
