"""A small recipe for every layer of torch.nn, and the reason for each that has none."""

from functools import partial

from torch import nn

SEQUENCE, IMAGE, VOLUME = (4, 6), (4, 6, 6), (4, 4, 4, 4)  # channels first


class Ids(nn.Module):
    """Whole numbers 0 to 4 out of real inputs."""

    def forward(self, x):
        return (4 * x.sigmoid()).round().long()


class Called(nn.Module):
    """A layer in a call of its own: one that takes several arguments, or gives several results."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


def pooled(dims):
    """What `nn.MaxPool` gives, for what undoes it."""
    pool = getattr(nn, f"MaxPool{dims}d")(2, return_indices=True)
    return lambda layer, x: layer(*pool(x))


def hidden(layer, x):
    """The output or the new hidden state of a recurrent layer."""
    output = layer(x)[0]
    return output if output.dim() == x.dim() else output[None]


def transformer_layer(kind, **options):
    return kind(4, 2, 8, dropout=0.0, batch_first=True, **options)


def itself(layer, x):
    return layer(x, x, x, need_weights=False)[0]


# A layer's arguments and the shape of an input; "train" or "eval" where it fits that mode alone.
PLAIN = {
    "Linear": ((4, 3), (4,)),
    "RMSNorm": ((4,), (4,)),
    "LayerNorm": ((4,), (4,)),
    "GroupNorm": ((2, 4), IMAGE),
    "LocalResponseNorm": ((2,), IMAGE),
    "CrossMapLRN2d": ((2,), IMAGE),
    "PReLU": ((4,), IMAGE),
    "Flatten": ((), IMAGE),
    "Unflatten": ((1, (2, 2)), (4,)),
    "Unfold": ((2,), IMAGE),
    "Fold": (((3, 3), (2, 2)), (4, 4)),
    "PixelShuffle": ((2,), IMAGE),
    "PixelUnshuffle": ((2,), IMAGE),
    "ChannelShuffle": ((2,), IMAGE),
    "Upsample": ((None, 2), IMAGE),
    "UpsamplingNearest2d": ((None, 2), IMAGE),
    "UpsamplingBilinear2d": ((None, 2), IMAGE),
    "Threshold": ((0.1, 20.0), (4,)),
    "Softmax": ((-1,), (4,)),
    "LogSoftmax": ((-1,), (4,)),
    "Softmin": ((-1,), (4,)),
    "Softmax2d": ((), IMAGE),
}
WITHOUT_ARGUMENTS = """
    AlphaDropout CELU Dropout ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh Identity
    LeakyReLU LogSigmoid Mish RReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh
    Tanhshrink
"""
PLAIN |= dict.fromkeys(WITHOUT_ARGUMENTS.split(), ((), (4,)))
for dims, shape in enumerate((SEQUENCE, IMAGE, VOLUME), start=1):
    for name, arguments in {
        "Conv": (4, 2, 2),
        "ConvTranspose": (4, 2, 2),
        "MaxPool": (2,),
        "AvgPool": (2,),
        "LPPool": (2, 2),
        "AdaptiveAvgPool": (2,),
        "AdaptiveMaxPool": (2,),
        "InstanceNorm": (4, 1e-5, 0.1, True),
        "BatchNorm": (4, 1e-5, 0.1, True, False),
        "CircularPad": (1,),
        "ConstantPad": (1, 0.5),
        "ReflectionPad": (1,),
        "ReplicationPad": (1,),
        "ZeroPad": (1,),
        "Dropout": (),
    }.items():
        PLAIN[f"{name}{dims}d"] = arguments, shape
PLAIN["FeatureAlphaDropout"] = (), IMAGE


def plain(name):
    arguments, shape = PLAIN[name]
    return getattr(nn, name)(*arguments), shape


LAYERS = {name: partial(plain, name) for name in PLAIN}
LAYERS |= {
    "Embedding": lambda: (nn.Sequential(Ids(), nn.Embedding(5, 3)), (4,)),
    "Embedding, padding_idx": lambda: (
        nn.Sequential(Ids(), nn.Embedding(5, 3, padding_idx=2)),
        (4,),
    ),
    "Embedding, by frequency": lambda: (
        nn.Sequential(Ids(), nn.Embedding(5, 3, scale_grad_by_freq=True)),
        (4,),
    ),
    "EmbeddingBag": lambda: (nn.Sequential(Ids(), nn.EmbeddingBag(5, 3)), (4,)),
    "EmbeddingBag, padding_idx": lambda: (
        nn.Sequential(Ids(), nn.EmbeddingBag(5, 3, padding_idx=2)),
        (4,),
    ),
    "EmbeddingBag, max": lambda: (nn.Sequential(Ids(), nn.EmbeddingBag(5, 3, mode="max")), (4,)),
    "Bilinear": lambda: (Called(nn.Bilinear(4, 4, 3), lambda layer, x: layer(x, x.sin())), (4,)),
    "CosineSimilarity": lambda: (
        Called(nn.CosineSimilarity(), lambda layer, x: layer(x, x.sin())[:, None]),
        (4,),
    ),
    "PairwiseDistance": lambda: (
        Called(nn.PairwiseDistance(), lambda layer, x: layer(x, x.sin())[:, None]),
        (4,),
    ),
    "AdaptiveLogSoftmaxWithLoss": lambda: (
        Called(nn.AdaptiveLogSoftmaxWithLoss(16, 6, [2, 4]), lambda layer, x: layer.log_prob(x)),
        (16,),
    ),
    "BatchNorm1d, at rest": lambda: (nn.BatchNorm1d(4), (4,)),
    "InstanceNorm1d, at rest": lambda: (
        nn.InstanceNorm1d(4, track_running_stats=True),
        SEQUENCE,
    ),
    "MaxUnpool1d": lambda: (Called(nn.MaxUnpool1d(2), pooled(1)), SEQUENCE),
    "MaxUnpool2d": lambda: (Called(nn.MaxUnpool2d(2), pooled(2)), IMAGE),
    "MaxUnpool3d": lambda: (Called(nn.MaxUnpool3d(2), pooled(3)), VOLUME),
    "RNN": lambda: (Called(nn.RNN(6, 3, batch_first=True), hidden), SEQUENCE),
    "GRU": lambda: (Called(nn.GRU(6, 3, batch_first=True), hidden), SEQUENCE),
    "LSTM": lambda: (Called(nn.LSTM(6, 3, batch_first=True), hidden), SEQUENCE),
    "RNNCell": lambda: (nn.RNNCell(4, 3), (4,)),
    "GRUCell": lambda: (nn.GRUCell(4, 3), (4,)),
    "LSTMCell": lambda: (Called(nn.LSTMCell(4, 3), lambda layer, x: layer(x)[0]), (4,)),
    "MultiheadAttention": lambda: (
        Called(nn.MultiheadAttention(4, 2, batch_first=True), itself),
        (5, 4),
    ),
    "TransformerEncoderLayer": lambda: (transformer_layer(nn.TransformerEncoderLayer), (5, 4)),
    "TransformerEncoder": lambda: (
        nn.TransformerEncoder(transformer_layer(nn.TransformerEncoderLayer), 2),
        (5, 4),
    ),
    "TransformerDecoderLayer": lambda: (
        Called(transformer_layer(nn.TransformerDecoderLayer), lambda layer, x: layer(x, x.sin())),
        (5, 4),
    ),
    "TransformerDecoder": lambda: (
        Called(
            nn.TransformerDecoder(transformer_layer(nn.TransformerDecoderLayer), 2),
            lambda layer, x: layer(x, x.sin()),
        ),
        (5, 4),
    ),
    "Transformer": lambda: (
        Called(
            nn.Transformer(4, 2, 1, 1, 8, dropout=0.0, batch_first=True),
            lambda layer, x: layer(x, x.sin()),
        ),
        (5, 4),
    ),
    "Sequential": lambda: (nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), (4,)),
    "ReLU, in place": lambda: (nn.ReLU(inplace=True), (4,)),
    "Dropout, in place": lambda: (nn.Dropout(inplace=True), (4,)),
}
# Layers that training changes, and whose training mode neither draws nor updates statistics.
IN_TRAINING = """
    BatchNorm1d BatchNorm2d BatchNorm3d GRU InstanceNorm1d LSTM MultiheadAttention RNN Transformer
    TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer
"""
DIFFERENT_IN_TRAINING = IN_TRAINING.split()
NO_SECOND_DERIVATIVE = ("CrossMapLRN2d", "EmbeddingBag", "Hardsigmoid")  # torch has none
WITHOUT = {
    "DataParallel": "is about devices",
    "FractionalMaxPool2d": "draws its regions in evaluation mode, too",
    "FractionalMaxPool3d": "draws its regions in evaluation mode, too",
    "SyncBatchNorm": "is about processes",
}
NO_FORWARD = """
    Container Module ModuleDict ModuleList ParameterDict ParameterList RNNBase RNNCellBase
"""
WITHOUT |= dict.fromkeys(NO_FORWARD.split(), "has no forward of its own")


def reason(name):
    """Why a class of torch.nn has no recipe; None if it should have one."""
    if name.startswith("Lazy"):
        return "becomes another layer when it reads its first input"
    if "Loss" in name and name != "AdaptiveLogSoftmaxWithLoss":
        return "is a loss"
    return WITHOUT.get(name)
