"""The ViViT core: a Video Vision Transformer (Arnab et al. 2021), causal in time.

    video (B, C, T, H, W)
      front end      optional causal temporal filters
      tokenizer      tubelets → tokens (B, T', N, D)
      energies       optional: how strong each orientation is in a token's pixels, and where they move; blocks then
                     begin with comparisons of them (``comparisons``)
      blocks         factorized ("model 3"):
                       spatial    every time step's N tokens (and registers) attend to each other
                       temporal   every place's T' tokens attend to themselves and what was before
                     or joint ("model 1"): every token attends to all tokens of its time step and of those before
      norm           → (B, D, T', H', W'), or a map of a gain (``ResidualStem``)

Departures from the paper: positions are the attention's (``models/attention``), by default rotary instead of learned
and added; queries and keys are normalized; registers (Darcet et al. 2024) take part in the spatial and joint blocks,
where they are attended; no class token: every place is read out; attention in time is causal and may be limited to a
window.

Shape letters: B clips, C channels, T frames, T' time steps, H W pixels, N tokens a time step, R registers, M = R + N, D
embedding, E numbers of a token in the energies; of cells K numbers, R S rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from vivit_core.models.attention.base import Attention, AttentionMask, Cache, Positions
from vivit_core.models.attention.blocks import Block
from vivit_core.models.cores.base import Core
from vivit_core.models.cores.cell_attention import CellAttention
from vivit_core.models.cores.comparisons import Beginning, no_room
from vivit_core.models.dropout import check_probability, draw_seeds, drop
from vivit_core.models.energy import OrientedEnergy
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.frontends.base import Frontend
from vivit_core.models.layers import Part
from vivit_core.models.tokenizers.base import Tokenizer, Tokens


class ViViT(Core):
    """Video transformer.

    Parameters
    ----------
    in_channels : channels of the video, given by the recordings.
    embedding_dim : width D of a token.
    blocks : "factorized" for spatial blocks, then temporal ones; "joint" for blocks that attend over space and time at
        once, which cost the square of all tokens of a span.
    spatial_depth, temporal_depth : number of blocks of each kind; of joint ones their sum.
    tokenizer, attention, frontend : constructors that take the sizes (``parts.build.part``); ``frontend=None`` for bare
        pixels.
    energy : constructor of what tokens tell of their pixels' orientations and motion, or None.
    registers : extra tokens of each time step that the spatial or joint blocks may write to. Blocks that compare have
        one more, before them: it stands for "no token is alike".
    ff_ratio : width of the feed-forward layers, in embedding widths.
    ff_dropout : dropout in the feed-forward layers.
    drop_path : probability of leaving out a residual branch in the last block; rises linearly from 0 at the first.
    patch_dropout : probability of silencing a whole token before the blocks.
    checkpointing : compute each block again in the backward pass instead of keeping its activations.
    causal : attention in time sees no later token.
    window : frames that attention in time looks back over, in whole tokens, the token's own included; None: the whole
        clip, so that what a stream has to remember grows without end.
    compile : whether the blocks are compiled for training (``compile_blocks``); "auto": the training decides.
    """

    def __init__(
        self,
        in_channels: int,
        embedding_dim: int,
        blocks: Literal["factorized", "joint"],
        spatial_depth: int,
        temporal_depth: int,
        tokenizer: Part,
        attention: Part,
        frontend: Part | None,
        energy: Part | None,
        registers: int,
        ff_ratio: float,
        ff_dropout: float,
        drop_path: float,
        patch_dropout: float,
        checkpointing: bool,
        causal: bool,
        window: int | None,
        compile: bool | Literal["auto"],
    ) -> None:
        super().__init__(causal, checkpointing, compile)
        check_probability(ff_dropout=ff_dropout, drop_path=drop_path, patch_dropout=patch_dropout)
        depth = spatial_depth + temporal_depth
        if registers and not (depth if blocks == "joint" else spatial_depth):
            raise ValueError(
                f"model.registers={registers} would never be attended to without spatial blocks; set model.registers=0"
            )
        self.frontend: Frontend | None = frontend(in_channels=in_channels) if frontend is not None else None
        channels = self.frontend.out_channels if self.frontend is not None else in_channels
        self.tokenizer: Tokenizer = tokenizer(in_channels=channels, dim=embedding_dim)
        self.registers = nn.Parameter(torch.randn(registers, embedding_dim) * 0.02) if registers else None
        self.patch_dropout = patch_dropout
        self.stride = self.tokenizer.token_stride[0]
        if window is not None and (window < self.stride or not causal):
            raise ValueError(
                f"model.window={window}: a window holds at least one token of {self.stride} frames, and "
                "only a causal model has one; set model.window=null, or at least the tokens' frames"
            )
        self.window = None if window is None else math.ceil(window / self.stride)
        masks = {
            "spatial": AttentionMask("space"),
            "temporal": AttentionMask("time", causal, self.window),
            "joint": AttentionMask("space_time", causal, self.window),
        }
        kinds = ["joint"] * depth if blocks == "joint" else ["spatial"] * spatial_depth + ["temporal"] * temporal_depth
        made: dict[str, list[Block]] = {kind: [] for kind in masks}
        for i, kind in enumerate(kinds):
            layer: Attention = attention(dim=embedding_dim, mask=masks[kind])
            path = drop_path * i / max(1, depth - 1)
            block = Block(layer, embedding_dim, ff_ratio, ff_dropout, path, residual_scale=(2 * depth) ** -0.5)
            made[kind].append(block)
        self.spatial, self.temporal, self.joint = (nn.ModuleList(own) for own in made.values())
        self.norm = nn.LayerNorm(embedding_dim)
        self.energy: OrientedEnergy | None = None
        self.cell_attention: CellAttention | None = None
        if energy is not None:
            own: OrientedEnergy = energy(
                in_channels=in_channels, patch_size=self.tokenizer.patch_size, token_stride=self.tokenizer.token_stride
            )
            self.left_out = no_room(own, embedding_dim, *self.beginning())
            if not self.left_out:
                self.energy = own
                self.lift = nn.Linear(own.numbers, embedding_dim)
                self.level = nn.RMSNorm(embedding_dim)
                self.begin_with_comparisons(own)
                if self.tokenizer.gain and own.reach is not None:
                    self.cell_attention = CellAttention(own, own.fading, own.reach)
        of_cells = [] if self.cell_attention is None else [CellAttention.CHANNELS]
        self.map_channels = [*self.tokenizer.map_channels, *of_cells, self.tokenizer.out_channels]

    @torch.no_grad()
    def begin_with_comparisons(self, energy: OrientedEnergy) -> None:
        """The first blocks begin with heads that compare energies (``comparisons``), all others at random."""
        begin = Beginning(energy, self.lift)
        begin.keep([*self.spatial, *self.temporal, *self.joint])
        over_space, over_time = self.beginning()
        if over_space is not None:
            register_D = begin.over_space(over_space)
            own = [register_D[None], *([] if self.registers is None else [self.registers])]
            self.registers = nn.Parameter(torch.cat(own))
        if over_time is not None:
            begin.over_time(over_time, self.window)
        self.tokenizer.begin_with(begin.at.end, begin.told(), begin.at.zero)

    def beginning(self) -> tuple[Attention | None, Attention | None]:
        """The first attention over space, or over both, and the first over time."""
        kinds = (self.joint or self.spatial, self.temporal)
        over_space, over_time = (first_attention(blocks) if blocks else None for blocks in kinds)
        return over_space, over_time

    def context(self) -> list[nn.Parameter]:
        if self.energy is None or not self.tokenizer.gain:
            return []
        cells = [] if self.cell_attention is None else [self.cell_attention]
        parts = (self.lift, self.level, *self.spatial, *self.temporal, *self.joint, self.norm, *cells)
        own = [parameter for part in parts for parameter in part.parameters()]
        return [*own, *self.tokenizer.learns_with_blocks(), *([] if self.registers is None else [self.registers])]

    def forward(self, x_BCTHW: Tensor) -> list[FeatureMap]:
        """Feature maps, finest first; the last is what the tokenizer makes of the blocks' output."""
        tokens = self.tokenizer(x_BCTHW if self.frontend is None else self.frontend(x_BCTHW), self.call)
        cells = self.cells(x_BCTHW)
        x = self.lifted(tokens, cells)
        if self.training and self.patch_dropout:
            x = drop(x, self.patch_dropout, draw_seeds(device=x.device), shape=(*x.shape[:-1], 1))
        self.check_positions(tokens.height, tokens.width, x.shape[1])
        x = self.attend_space(x, tokens.height, tokens.width)
        x = self.attend_time(x)
        x = self.attend_both(x, tokens.height, tokens.width)
        return [*tokens.maps, *self.of_cells(cells), self.tokenizer.restore(tokens, self.norm(x))]

    def cells(self, x_BCTHW: Tensor) -> Tensor | None:
        """Energies and motion of the video's cells in every frame; None for a core that holds none."""
        return None if self.energy is None else self.energy.cells(x_BCTHW, None)[0]

    def lifted(self, tokens: Tokens, cells_BTKRS: Tensor | None) -> Tensor:
        """Tokens (B, T', N, D), with the energies of the video that they were cut from."""
        if self.energy is None or cells_BTKRS is None:
            return tokens.x_BTND
        return self.with_energies(tokens, self.energy(cells_BTKRS, tokens))

    def of_cells(self, cells_BTKRS: Tensor | None) -> list[FeatureMap]:
        """The gain that cells make of what is around them."""
        if self.energy is None or self.cell_attention is None or cells_BTKRS is None:
            return []
        return [self.cell_attention.as_map(self.cell_attention(cells_BTKRS, self.energy.usual))]

    def with_energies(self, tokens: Tokens, told_BTNE: Tensor) -> Tensor:
        # The convolutions' maps grow in training: leveled, they leave the energies as large as they were.
        x: Tensor = self.level(tokens.x_BTND) + self.lift(told_BTNE)
        return x

    def attend_space(self, x_BTND: Tensor, height: int, width: int) -> Tensor:
        if not self.spatial:
            return x_BTND
        b = x_BTND.shape[0]
        x = self.with_registers(x_BTND).flatten(0, 1)
        positions = self.positions(self.spatial, height, width, torch.zeros(1, dtype=torch.long, device=x.device))
        x = self.run(self.spatial, x, positions)
        return self.without_registers(rearrange(x, "(b t) m d -> b t m d", b=b))

    def attend_time(self, x_BTND: Tensor) -> Tensor:
        if not self.temporal:
            return x_BTND
        b, t = x_BTND.shape[:2]
        x = rearrange(x_BTND, "b t n d -> (b n) t d")
        x = self.run(self.temporal, x, self.positions(self.temporal, 1, 1, torch.arange(t, device=x.device)))
        return rearrange(x, "(b n) t d -> b t n d", b=b)

    def attend_both(self, x_BTND: Tensor, height: int, width: int) -> Tensor:
        if not self.joint:
            return x_BTND
        t = x_BTND.shape[1]
        x = self.with_registers(x_BTND).flatten(1, 2)
        positions = self.positions(self.joint, height, width, torch.arange(t, device=x.device))
        return self.without_registers(self.run(self.joint, x, positions).unflatten(1, (t, -1)))

    def with_registers(self, x_BTND: Tensor) -> Tensor:
        """Each time step's tokens behind the registers, (B, T, M, D)."""
        if self.registers is None:
            return x_BTND
        b, t = x_BTND.shape[:2]
        return torch.cat([repeat(self.registers.to(x_BTND.dtype), "r d -> b t r d", b=b, t=t), x_BTND], dim=2)

    def without_registers(self, x_BTMD: Tensor) -> Tensor:
        return x_BTMD if self.registers is None else x_BTMD[:, :, len(self.registers) :]

    def positions(self, blocks: nn.ModuleList, height: int, width: int, steps: Tensor) -> Positions:
        """Of the tokens of a sequence of these blocks."""
        registers = 0 if self.registers is None else len(self.registers)
        return first_attention(blocks).positions(height, width, registers, steps)

    def run(self, blocks: nn.ModuleList, x_BND: Tensor, positions: Positions) -> Tensor:
        """The blocks one after the other."""
        shape = (len(blocks), Block.SEEDS)
        seeds = draw_seeds(*shape, device=x_BND.device)
        for block, own in zip(blocks, seeds, strict=True):
            x_BND = self.call(block, x_BND, positions, own)
        return x_BND

    def stream(self, old: int) -> Callable[[Tensor], list[FeatureMap | None]]:
        self.refuse_acausal_stream()
        filtered = self.frontend.stream() if self.frontend is not None else None
        cut = self.tokenizer.stream(old)
        see, told = (None, None) if self.energy is None else (self.energy.stream_cells(), self.energy.stream())
        compare = self.cell_attention.stream(self.energy.usual) if self.energy and self.cell_attention else None
        in_time, joint = ([Cache(self.window) for _ in blocks] for blocks in (self.temporal, self.joint))
        step = 0

        def advance(frame: Tensor) -> list[FeatureMap | None]:
            nonlocal step
            maps, tokens = cut(frame if filtered is None else filtered(frame))
            cells = see(frame) if see is not None else None
            numbers = told(cells, tokens) if told is not None and cells is not None else None
            if self.cell_attention is not None and compare is not None and cells is not None:
                maps = [*maps, self.cell_attention.as_map(compare(cells))]
            if tokens is None:
                return [*maps, None]
            height, width = tokens.height, tokens.width
            now = torch.tensor([step], device=tokens.x_BTND.device)
            x = tokens.x_BTND if numbers is None else self.with_energies(tokens, numbers)  # (1, 1, N, D)
            x = self.attend_space(x, height, width)
            if self.temporal:
                x = self.newest(self.temporal, in_time, rearrange(x, "b t n d -> (b n) t d"), 1, 1, now)
                x = rearrange(x, "n t d -> 1 t n d")
            if self.joint:
                x = self.newest(self.joint, joint, self.with_registers(x)[0], height, width, now)
                x = self.without_registers(x[None])
            step += 1
            return [*maps, self.tokenizer.restore(tokens, self.norm(x))]

        return advance

    def newest(
        self, blocks: nn.ModuleList, caches: list[Cache], x_BND: Tensor, height: int, width: int, now: Tensor
    ) -> Tensor:
        """The newest time step's tokens through these blocks."""
        before = caches[0].keys
        steps = 1 if before is None else 1 + before.shape[2] // x_BND.shape[1]
        first_attention(blocks).check_positions(height, width, min(steps, self.window or steps))
        positions = self.positions(blocks, height, width, now)
        for block, cache in zip(blocks, caches, strict=True):
            assert isinstance(block, Block)
            x_BND = block.step(x_BND, positions, cache)
        return x_BND

    @torch.no_grad()
    def normalize(self, clips: Iterable[Tensor]) -> None:
        if self.energy is not None:
            seen: list[Tensor] = []
            self.energy.normalize(self.shown(clips, seen))
            if self.cell_attention is not None:
                self.cell_attention.normalize(seen, self.energy.usual)

    def shown(self, clips: Iterable[Tensor], seen: list[Tensor]) -> Iterator[tuple[Tensor, Tokens]]:
        """Cells and tokens of clips; the cells are kept in ``seen``, because they are few beside pixels."""
        assert self.energy is not None
        for x_BCTHW in clips:
            cells, _ = self.energy.cells(x_BCTHW, None)
            seen.append(cells)
            yield cells, self.tokenizer(x_BCTHW if self.frontend is None else self.frontend(x_BCTHW))

    def check_geometry(self, frames: int, height: int, width: int) -> None:
        steps, rows, columns = self.tokenizer.grid(frames, height, width)
        self.check_positions(rows, columns, steps)

    def check_positions(self, height: int, width: int, steps: int) -> None:
        """Raise ValueError, with a remedy, where the blocks' positions do not reach over so many tokens."""
        for blocks in (self.spatial, self.temporal, self.joint):
            if blocks:
                first_attention(blocks).check_positions(height, width, min(steps, self.window or steps))

    def regularizer(self) -> Tensor:
        return self.tokenizer.regularizer()


def first_attention(blocks: nn.ModuleList) -> Attention:
    """All blocks' attention has the same sizes."""
    block = blocks[0]
    assert isinstance(block, Block)
    return block.attention
