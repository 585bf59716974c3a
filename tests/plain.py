"""GRU4Rec's training written the obvious way, in float64 with autograd: what the engine is held against.

One column for each target and each extra negative, duplicates and all; dense gradients, and a mask for the rows that a
step touches; torch's own cells; one-hot items as products with an identity matrix. Nothing here comes from the engine.

Shapes: B lanes, V items, S extra negatives, C columns (the targets of the B lanes, then the extra negatives; all V
items in full cross-entropy), D size of an item row, H units of a layer, G gates of the cell.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-24
GATES = {"gru": 3, "lstm": 4, "rnn": 1}


# Losses: of each lane [B], from scores or r = act(scores) [B, C], lane i's target in column i. `masked` [B, C] bool:
# columns that do not count for a lane.


def cross_entropy(
    scores: Tensor,
    correction: Tensor,
    masked: Tensor | None = None,
    own: Tensor | None = None,
    items: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """−log(p + 1e-24) of the lane's target column; `correction` [C] is subtracted from the scores.

    `own` [B]: the lanes' target columns where they are not the first B. `smoothing` is shared out evenly over the
    distinct `items` [C] that have a column left; an item's probability is that of all its columns.
    """
    logits = scores - correction
    if masked is not None:
        logits = logits.masked_fill(masked, -torch.inf)
    p = torch.softmax(logits, dim=1)
    own = torch.arange(len(p)) if own is None else own
    loss = -torch.log(p[torch.arange(len(p)), own] + TINY)
    if smoothing == 0:
        return loss
    counts = torch.ones_like(p) if masked is None else (~masked).to(p.dtype)
    column_of_item = (items.unique().unsqueeze(1) == items).to(p.dtype).t()  # [C, K]
    left = counts @ column_of_item > 0  # [B, K]
    log_p = torch.log(p @ column_of_item + TINY)
    return (1 - smoothing) * loss - smoothing * (left * log_p).sum(dim=1) / left.sum(dim=1)


def bpr_max(scores: Tensor, bpreg: float, elu_param: float, masked: Tensor | None = None) -> Tensor:
    """−log(Σ s_j σ(r_i − r_j) + 1e-24) + bpreg Σ s_j r_j²; `elu_param` above 0 applies ELU to the scores first."""
    r = F.elu(scores, alpha=elu_param) if elu_param > 0 else scores
    weights = _softmax(r, _negative(r, masked))
    better = torch.sigmoid(r.diagonal().unsqueeze(1) - r)
    return -torch.log((weights * better).sum(dim=1) + TINY) + bpreg * (weights * r**2).sum(dim=1)


def top1(r: Tensor, masked: Tensor | None = None) -> Tensor:
    """Mean of σ(r_j − r_i) + σ(r_j²)."""
    losses = torch.sigmoid(r - r.diagonal().unsqueeze(1)) + torch.sigmoid(r**2)
    return _mean(losses, _negative(r, masked))


def bpr(r: Tensor, masked: Tensor | None = None) -> Tensor:
    """Mean of −log σ(r_i − r_j)."""
    return _mean(-F.logsigmoid(r.diagonal().unsqueeze(1) - r), _negative(r, masked))


def top1_max(r: Tensor, masked: Tensor | None = None) -> Tensor:
    """Σ s_j (σ(r_j − r_i) + σ(r_j²))."""
    weights = _softmax(r, _negative(r, masked))
    return (weights * (torch.sigmoid(r - r.diagonal().unsqueeze(1)) + torch.sigmoid(r**2))).sum(dim=1)


def _negative(r: Tensor, masked: Tensor | None) -> Tensor:
    """[B, C] bool: all columns but the lane's own and the masked ones."""
    negative = torch.ones_like(r, dtype=torch.bool) if masked is None else ~masked
    return negative & (torch.arange(r.shape[1]) != torch.arange(len(r)).unsqueeze(1))


def _mean(losses: Tensor, negative: Tensor) -> Tensor:
    """Mean over the negatives; 0 without any."""
    return (losses * negative).sum(dim=1) / negative.sum(dim=1).clamp_min(1)


def _softmax(r: Tensor, negative: Tensor) -> Tensor:
    """Softmax over the negatives; 0 for all others, and for a lane without any."""
    return torch.softmax(r.masked_fill(~negative, -1e300), dim=1) * negative


def activation(settings, scores: Tensor) -> Tensor:
    """r = act(scores), element by element."""
    match settings.activation:
        case "linear":
            return scores
        case "tanh":
            return torch.tanh(scores)
        case "relu":
            return torch.relu(scores)
        case "leaky-relu":
            return torch.where(scores > 0, scores, settings.leaky_slope * scores)
        case "elu":
            return torch.where(scores > 0, scores, settings.elu_param * torch.expm1(scores.clamp(max=0)))
        case "selu":
            return torch.selu(scores)
    raise ValueError(settings.activation)


def learning_rate(settings, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0."""
    t = epoch / (settings.epochs - 1) if settings.epochs > 1 else 0.0
    share = {
        "constant": 1.0,
        "linear": 1 + (settings.lr_final - 1) * t,
        "exponential": settings.lr_final**t,
        "cosine": settings.lr_final + (1 - settings.lr_final) * (1 + math.cos(math.pi * t)) / 2,
    }
    return settings.learning_rate * share[settings.lr_schedule]


def shapes(settings, items: int) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by name."""
    gates, layers, one_hot = GATES[settings.cell], settings.layers, settings.embedding == "one-hot"
    found = {"item_table": (items, settings.width), "item_bias": (items,)}
    input_width = settings.width
    if settings.embedding == "separate":
        input_width = settings.embedding_size or layers[0]
    if one_hot:
        input_width = gates * (sum(layers) if settings.input_to_all_layers else layers[0])
    if settings.embedding != "tied":
        found["item_input"] = (items, input_width)
    for layer, units in enumerate(layers):
        prefix = f"{settings.cell}.{layer}"
        width = layers[layer - 1] if layer > 0 else 0
        if not one_hot and (layer == 0 or settings.input_to_all_layers):
            width += input_width
        if width > 0:
            found[f"{prefix}.weight_input"] = (gates * units, width)
        found[f"{prefix}.weight_hidden"] = (gates * units, units)
        found[f"{prefix}.bias_input"] = (gates * units,)
        if not (one_hot and layer == 0 and settings.cell == "gru"):
            found[f"{prefix}.bias_hidden"] = (gates * units,)
    below = layers[-1]
    for number, units in enumerate(settings.feed_forward):
        found[f"feed_forward.{number}.weight"] = (units, below)
        found[f"feed_forward.{number}.bias"] = (units,)
        below = units
    return found


def initial(settings, items: int, seed: int) -> dict[str, Tensor]:
    """Weights to start a comparison from, float64. Biases are not 0, so that one in the wrong place is seen."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(settings, items).items():
        bound = 0.1
        if len(shape) == 2:
            bound = settings.init_range or math.sqrt(6 / sum(shape))
        weights[name] = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound
    return weights


class PlainOptimizer:
    """The optimizer of one weight: rows that are not touched keep weight and state."""

    def __init__(self, settings, weight: Tensor) -> None:
        self.settings = settings
        self.velocity = torch.zeros_like(weight)
        self.mean = torch.zeros_like(weight)  # of gradients
        self.squares = torch.zeros_like(weight)  # of gradients, their sum or running mean
        self.changes = torch.zeros_like(weight)  # running mean of the squares of Adadelta's changes
        self.updates = torch.zeros([len(weight)] + [1] * (weight.dim() - 1), dtype=weight.dtype)  # of each row

    def step(self, weight: Tensor, gradient: Tensor, touched: Tensor, learning_rate: float) -> None:
        """Update the `touched` [rows] bool of `weight` in place; `gradient` has the weight's shape."""
        settings = self.settings
        g = gradient[touched] + settings.l2 * weight[touched]
        if settings.optimizer == "sgd":
            change = g
        elif settings.optimizer == "adagrad":
            self.squares[touched] += g**2
            change = g / torch.sqrt(self.squares[touched] + 1e-6)
        elif settings.optimizer == "rmsprop":
            self.squares[touched] = settings.rho * self.squares[touched] + (1 - settings.rho) * g**2
            change = g / torch.sqrt(self.squares[touched] + 1e-6)
        elif settings.optimizer == "adadelta":
            self.squares[touched] = settings.rho * self.squares[touched] + (1 - settings.rho) * g**2
            change = g * torch.sqrt(self.changes[touched] + 1e-6) / torch.sqrt(self.squares[touched] + 1e-6)
            self.changes[touched] = settings.rho * self.changes[touched] + (1 - settings.rho) * change**2
        elif settings.optimizer == "adam":
            self.mean[touched] = settings.beta1 * self.mean[touched] + (1 - settings.beta1) * g
            self.squares[touched] = settings.beta2 * self.squares[touched] + (1 - settings.beta2) * g**2
            self.updates[touched] += 1
            mean = self.mean[touched] / (1 - settings.beta1 ** self.updates[touched])
            squares = self.squares[touched] / (1 - settings.beta2 ** self.updates[touched])
            change = mean / (torch.sqrt(squares) + 1e-8)
        else:
            raise ValueError(settings.optimizer)
        self.velocity[touched] = settings.momentum * self.velocity[touched] - learning_rate * change
        weight[touched] += self.velocity[touched]


class PlainTrainer:
    """One step at a time; `weights` by the engine's names, float64. `support` [V]: clicks of each item."""

    def __init__(self, settings, weights: dict[str, Tensor], support: np.ndarray) -> None:
        self.settings = settings
        self.weights = {name: weight.detach().double().clone() for name, weight in weights.items()}
        self.optimizers = {name: PlainOptimizer(settings, weight) for name, weight in self.weights.items()}
        self.log_support = torch.from_numpy(np.log(np.maximum(support, 1).astype(np.float64)))
        self.states: list[Tensor] = []  # of each layer [B, H], LSTM [B, 2H]: h, then c
        self.seen: list[set[int]] = []  # items that each lane's session has clicked, the current input included

    def step(
        self,
        inputs: Tensor,
        targets: Tensor,
        resets: Tensor,
        extra: Tensor,
        active: Tensor | None = None,
        drop_embed: Tensor | float = 1.0,
        drop_hidden: list[Tensor] | None = None,
        learning_rate: float | None = None,
    ) -> float:
        """Train on one mini-batch; returns its loss, summed over the active lanes and divided by the batch size.

        `inputs`, `targets` [B] and `extra` [S] are items, `resets` [B] bool where a session starts, `active` [B] bool
        False for retired lanes. `drop_embed` multiplies the item input, `drop_hidden` each layer's output [B, H].
        Without an active lane nothing happens.
        """
        settings = self.settings
        inputs, targets, extra = inputs.long(), targets.long(), extra.long()
        lanes = torch.arange(len(inputs)) if active is None else active.nonzero().squeeze(1)
        if len(lanes) == 0:
            return 0.0
        self._follow(inputs, resets, lanes)
        if isinstance(drop_embed, Tensor):
            drop_embed = drop_embed[lanes].double()
        drop_hidden = [drop[lanes].double() for drop in drop_hidden] if drop_hidden else [1.0] * len(settings.layers)

        leaves = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()}
        old = [state[lanes] for state in self.states]
        y, new = self._network(leaves, inputs[lanes], old, drop_embed, drop_hidden)
        columns = torch.cat([targets[lanes], extra])
        if settings.loss == "full-cross-entropy":
            columns = torch.arange(len(self.weights["item_table"]))
        scores = y @ leaves["item_table"][columns].t() + leaves["item_bias"][columns]
        loss = self._losses(scores, columns, targets[lanes], lanes).sum() / settings.batch_size
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        for state, part in zip(self.states, new, strict=True):
            state[lanes] = part.detach()

        if settings.grad_clip > 0:
            norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
            shrink = min(1.0, settings.grad_clip / (float(norm) + 1e-6))
            gradients = {name: gradient * shrink for name, gradient in gradients.items()}
        touched = {"item_table": columns, "item_bias": columns, "item_input": inputs[lanes]}
        if settings.embedding == "tied":
            touched["item_table"] = torch.cat([columns, inputs[lanes]])
        rate = settings.learning_rate if learning_rate is None else learning_rate
        for name, weight in self.weights.items():
            rows = torch.zeros(len(weight), dtype=torch.bool)
            rows[touched.get(name, torch.arange(len(weight)))] = True
            if name == "item_bias":  # Adam counts the updates of an item's row, of which the bias is a part
                self.optimizers[name].updates = self.optimizers["item_table"].updates.flatten() - 1
            self.optimizers[name].step(weight, gradients[name], rows, rate)
        return float(loss.detach())

    def _follow(self, inputs: Tensor, resets: Tensor, lanes: Tensor) -> None:
        """Start the states and the clicked items anew where a session starts, and add the current clicks."""
        if not self.states:
            parts = 2 if self.settings.cell == "lstm" else 1
            self.states = [
                torch.zeros(len(inputs), parts * units, dtype=torch.float64) for units in self.settings.layers
            ]
            self.seen = [set() for _ in inputs]
        for lane in lanes.tolist():
            if resets[lane]:
                self.seen[lane] = set()
                for state in self.states:
                    state[lane] = 0.0
            self.seen[lane].add(int(inputs[lane]))

    def _network(
        self,
        weights: dict[str, Tensor],
        inputs: Tensor,
        old: list[Tensor],
        drop_embed: Tensor | float,
        drop_hidden: list[Tensor | float],
    ) -> tuple[Tensor, list[Tensor]]:
        """What scores the items [B, D], and the new states."""
        settings, gates = self.settings, GATES[self.settings.cell]
        one_hot = settings.embedding == "one-hot"
        item = weights["item_table" if settings.embedding == "tied" else "item_input"][inputs] * drop_embed
        read = 0  # one-hot: so many of the row's numbers are the gates of the layers so far
        y, new = None, []
        for layer, (units, state) in enumerate(zip(settings.layers, old, strict=True)):
            names = ("weight_input", "weight_hidden", "bias_input", "bias_hidden")
            w, u, b, c = (weights.get(f"{settings.cell}.{layer}.{name}") for name in names)
            x = [y] if layer > 0 else []
            if layer == 0 or settings.input_to_all_layers:
                if one_hot:  # the row holds products with the input weights already
                    x.append(item[:, read : read + gates * units])
                    read += gates * units
                    identity = torch.eye(gates * units, dtype=torch.float64)
                    w = identity if layer == 0 else torch.cat([w, identity], dim=1)
                else:
                    x.append(item)
            x = torch.cat(x, dim=1)
            memory = []  # LSTM's c, which dropout leaves alone
            if settings.cell == "lstm":
                h, memory_cell = torch.lstm_cell(x, state.chunk(2, dim=1), w, u, b, c)
                memory = [memory_cell]
            elif settings.cell == "rnn":
                h = torch.rnn_tanh_cell(x, state, w, u, b, c)
            elif one_hot and layer == 0:
                h = _gru_reset_before(x + b, state, u)
            else:
                h = torch.gru_cell(x, state, w, u, b, c)
            y = h * drop_hidden[layer]
            new.append(torch.cat([y, *memory], dim=1))
        for number in range(len(settings.feed_forward)):
            y = torch.tanh(y @ weights[f"feed_forward.{number}.weight"].t() + weights[f"feed_forward.{number}.bias"])
        return y, new

    def _losses(self, scores: Tensor, columns: Tensor, targets: Tensor, lanes: Tensor) -> Tensor:
        """Loss of each active lane from its scores of the columns."""
        settings = self.settings
        r = activation(settings, scores)
        full = settings.loss == "full-cross-entropy"
        own = targets if full else torch.arange(len(targets))
        masked = self._masked(columns, targets, own, lanes)
        if full:
            return cross_entropy(r, torch.zeros(len(columns)), masked, own, columns, settings.label_smoothing)
        if settings.loss == "cross-entropy":
            alpha = torch.full((len(columns),), settings.sample_alpha, dtype=torch.float64)
            alpha[: len(targets)] = 1.0
            correction = settings.logq * alpha * self.log_support[columns]
            return cross_entropy(r, correction, masked, own, columns, settings.label_smoothing)
        if settings.loss == "bpr-max":
            return bpr_max(r, settings.bpreg, 0.0, masked)
        return {"top1": top1, "bpr": bpr, "top1-max": top1_max}[settings.loss](r, masked)

    def _masked(self, columns: Tensor, targets: Tensor, own: Tensor, lanes: Tensor) -> Tensor:
        """[B, C] bool: columns that do not count for a lane."""
        masked = torch.zeros(len(targets), len(columns), dtype=torch.bool)
        if not (self.settings.mask_hits or self.settings.mask_seen):
            return masked
        for row, (lane, target) in enumerate(zip(lanes.tolist(), targets.tolist(), strict=True)):
            for column, item in enumerate(columns.tolist()):
                if column == own[row]:
                    continue
                if item == target:
                    masked[row, column] = self.settings.mask_hits
                elif item in self.seen[lane]:
                    masked[row, column] = self.settings.mask_seen
        return masked


def _gru_reset_before(gates: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """GRU whose reset gate acts before the product: `gates` [B, 3H] from the input and the one bias, u [3H, H]."""
    gate_r, gate_z, gate_n = gates.chunk(3, dim=1)
    u_r, u_z, u_n = u.chunk(3)
    r = torch.sigmoid(gate_r + h @ u_r.t())
    z = torch.sigmoid(gate_z + h @ u_z.t())
    n = torch.tanh(gate_n + (r * h) @ u_n.t())
    return (1 - z) * n + z * h
