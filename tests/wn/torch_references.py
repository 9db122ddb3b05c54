"""PyTorch models whose weights, outputs and training steps `tests/wn/test_torch.py` compares.

Writes torch_references.npz, which the tests need, so that they do not need PyTorch:

  python -m tests.wn.torch_references
"""

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

FILE = Path(__file__).with_suffix('.npz')


def weight_norm(module, name='weight', dim=0):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', FutureWarning)  # the old one is deprecated
    return nn.utils.weight_norm(module, name, dim)


new_weight_norm = parametrizations.weight_norm


class ResBlock(nn.Module):
  def __init__(self, channels):
    super().__init__()
    conv = lambda d: weight_norm(nn.Conv1d(channels, channels, 3, padding=d, dilation=d))
    self.convs1 = nn.ModuleList(conv(d) for d in (1, 3))
    self.convs2 = nn.ModuleList(conv(1) for _ in range(2))

  def forward(self, x):
    for conv1, conv2 in zip(self.convs1, self.convs2):
      x = x + conv2(F.leaky_relu(conv1(F.leaky_relu(x, 0.1)), 0.1))
    return x


class HifiGan(nn.Module):
  """A generator as in HiFi-GAN (Kong et al. 2020), small."""

  def __init__(self):
    super().__init__()
    self.conv_pre = weight_norm(nn.Conv1d(6, 16, 7, padding=3))
    ups = [nn.ConvTranspose1d(16, 8, 8, 4, padding=2), nn.ConvTranspose1d(8, 4, 4, 2, padding=1)]
    self.ups = nn.ModuleList(weight_norm(up) for up in ups)
    self.resblocks = nn.ModuleList(ResBlock(channels) for channels in (8, 4))
    self.conv_post = weight_norm(nn.Conv1d(4, 1, 7, padding=3))

  def forward(self, x):
    x = self.conv_pre(x)
    for up, block in zip(self.ups, self.resblocks):
      x = block(up(F.leaky_relu(x, 0.1)))
    return torch.tanh(self.conv_post(F.leaky_relu(x)))


class WaveNet(nn.Module):
  """Gated, dilated, causal convolutions with residual and skip connections."""

  def __init__(self, channels=6, skips=5):
    super().__init__()
    conv = lambda *args, **kwargs: new_weight_norm(nn.Conv1d(*args, **kwargs))
    self.channels = channels
    self.start = conv(3, channels, 1)
    self.gated = nn.ModuleList(conv(channels, 2 * channels, 2, dilation=d) for d in (1, 2, 4))
    self.res_skip = nn.ModuleList(conv(channels, channels + skips, 1) for _ in range(3))
    self.end = conv(skips, 4, 1)

  def forward(self, x):
    x = self.start(x)
    skips = 0
    for gated, res_skip in zip(self.gated, self.res_skip):
      a, b = gated(F.pad(x, (gated.dilation[0], 0))).chunk(2, 1)
      out = res_skip(torch.tanh(a) * torch.sigmoid(b))
      x = x + out[:, : self.channels]
      skips = skips + out[:, self.channels :]
    return self.end(F.relu(skips))


class Attention(nn.Module):
  def __init__(self, features, heads):
    super().__init__()
    self.heads = heads
    for name in ('k_proj', 'v_proj', 'q_proj', 'out_proj'):
      setattr(self, name, nn.Linear(features, features))

  def forward(self, x):
    q, k, v = (
      proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
      for proj in (self.q_proj, self.k_proj, self.v_proj)
    )
    return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class EncoderLayer(nn.Module):
  def __init__(self, features):
    super().__init__()
    self.attention = Attention(features, 2)
    self.layer_norm = nn.LayerNorm(features)
    self.feed_forward = nn.ModuleDict(
      {
        'intermediate_dense': nn.Linear(features, 2 * features),
        'output_dense': nn.Linear(2 * features, features),
      }
    )
    self.final_layer_norm = nn.LayerNorm(features)

  def forward(self, x):
    x = self.layer_norm(x + self.attention(x))
    hidden = F.gelu(self.feed_forward['intermediate_dense'](x))
    return self.final_layer_norm(x + self.feed_forward['output_dense'](hidden))


class Wav2Vec2(nn.Module):
  """An encoder as in wav2vec 2.0, with the names of its parameters in `transformers`."""

  def __init__(self, features=8):
    super().__init__()
    conv = nn.Conv1d(features, features, 6, padding=3, groups=2)
    self.pos_conv_embed = nn.ModuleDict({'conv': new_weight_norm(conv, dim=2)})
    self.layer_norm = nn.LayerNorm(features)
    self.layers = nn.ModuleList([EncoderLayer(features)])

  def forward(self, x):
    positions = self.pos_conv_embed['conv'](x.transpose(1, 2))[:, :, :-1]
    x = self.layer_norm(x + F.gelu(positions).transpose(1, 2))
    for layer in self.layers:
      x = layer(x)
    return x


class Recurrent(nn.Module):
  """A cell of PyTorch whose second bias is not trained, as its gradient is that of the first."""

  def __init__(self, cls, norm=None, freeze=True):
    super().__init__()
    self.rnn = cls(3, 5, batch_first=True)
    self.rnn.bias_hh_l0.requires_grad_(not freeze)
    if norm is not None:
      norm(self.rnn, 'weight_ih_l0')
      norm(self.rnn, 'weight_hh_l0')
    self.head = nn.Linear(5, 2)

  def forward(self, x):
    return self.head(self.rnn(x)[0])


def gru_without_second_bias(norm=None):
  model = Recurrent(nn.GRU, norm)
  with torch.no_grad():
    model.rnn.bias_hh_l0[10:] = 0
  return model


def trained_norm(norm):
  """A normalization layer whose parameters and statistics are not those of a new one."""
  with torch.no_grad():
    for tensor in norm.state_dict().values():
      if tensor.is_floating_point():
        tensor.uniform_(0.5, 1.5)
  return norm.eval()


# Name: a model, the shape of its input.
CASES = {
  'linear_plain': (lambda: nn.Linear(3, 4), (5, 3)),
  'linear': (lambda: weight_norm(nn.Linear(3, 4)), (5, 3)),
  'linear_new': (lambda: new_weight_norm(nn.Linear(3, 4, bias=False)), (5, 3)),
  'linear_dim_1': (lambda: weight_norm(nn.Linear(3, 4), dim=1), (5, 3)),
  'linear_dim_none': (lambda: new_weight_norm(nn.Linear(3, 4), dim=None), (5, 3)),
  'linear_general': (lambda: weight_norm(nn.Linear(3, 4)), (5, 3)),
  'conv1d': (lambda: weight_norm(nn.Conv1d(4, 6, 3, stride=2, dilation=2, groups=2)), (2, 4, 11)),
  'conv1d_plain': (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
  'conv1d_dim_2': (lambda: new_weight_norm(nn.Conv1d(4, 6, 3), dim=2), (2, 4, 7)),
  'conv2d': (lambda: new_weight_norm(nn.Conv2d(4, 6, (3, 2), groups=2)), (2, 4, 6, 5)),
  'conv3d': (lambda: weight_norm(nn.Conv3d(2, 3, (3, 2, 1))), (2, 2, 5, 4, 3)),
  'transpose1d_plain': (lambda: nn.ConvTranspose1d(4, 3, 5, 2, 1, output_padding=1), (2, 4, 5)),
  'transpose1d': (lambda: weight_norm(nn.ConvTranspose1d(4, 3, 5, 2, 1, dilation=2)), (2, 4, 5)),
  'transpose1d_dim_1': (lambda: weight_norm(nn.ConvTranspose1d(4, 3, 5, 2), dim=1), (2, 4, 5)),
  'transpose1d_dim_2': (lambda: weight_norm(nn.ConvTranspose1d(4, 3, 5, 2), dim=2), (2, 4, 5)),
  'transpose2d': (lambda: weight_norm(nn.ConvTranspose2d(4, 3, (3, 2), (2, 1))), (2, 4, 3, 4)),
  'transpose3d': (lambda: new_weight_norm(nn.ConvTranspose3d(2, 3, (3, 2, 1), 2)), (2, 2, 3, 2, 2)),
  'embedding_plain': (lambda: nn.Embedding(7, 3), (2, 5)),
  'embedding': (lambda: weight_norm(nn.Embedding(7, 3)), (2, 5)),
  'batch_norm': (lambda: trained_norm(nn.BatchNorm1d(4)), (3, 4, 5)),
  'layer_norm': (lambda: trained_norm(nn.LayerNorm(4)), (3, 5, 4)),
  'group_norm': (lambda: trained_norm(nn.GroupNorm(2, 4)), (3, 4, 5)),
  'lstm_plain': (lambda: Recurrent(nn.LSTM), (2, 6, 3)),
  'lstm': (lambda: Recurrent(nn.LSTM, weight_norm), (2, 6, 3)),
  'lstm_new': (lambda: Recurrent(nn.LSTM, new_weight_norm), (2, 6, 3)),
  'gru_plain': (gru_without_second_bias, (2, 6, 3)),
  'gru': (lambda: gru_without_second_bias(weight_norm), (2, 6, 3)),
  'gru_two_biases': (lambda: Recurrent(nn.GRU, new_weight_norm, freeze=False), (2, 6, 3)),
  'rnn': (lambda: Recurrent(nn.RNN, weight_norm), (2, 6, 3)),
  'hifi_gan': (HifiGan, (2, 6, 5)),
  'wavenet': (WaveNet, (2, 3, 12)),
  'wav2vec2': (Wav2Vec2, (2, 9, 8)),
}
ADAM = ('hifi_gan', 'wavenet')  # the others train with SGD


def create(name):
  """(model, its input); g is not ‖v‖, and some are negative."""
  torch.manual_seed(sorted(CASES).index(name))
  make, shape = CASES[name]
  model = make()
  with torch.no_grad():
    for key, parameter in model.named_parameters():
      if key.endswith(('_g', 'original0')):
        parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
        parameter.view(-1)[:1].neg_()
  is_embedding = isinstance(model, nn.Embedding)
  return model, torch.randint(7, shape) if is_embedding else torch.randn(shape)


def loss_of(y):
  target = torch.cos(torch.arange(y.numel(), dtype=torch.float32)).reshape(y.shape)
  return ((y - target) ** 2).mean()


def arrays_of(model):
  return {f'{key}': value.detach().numpy().copy() for key, value in model.state_dict().items()}


def reference(name):
  """Input, output and state dict of a model, and its state dict after a step."""
  model, x = create(name)
  result = {'input': x.numpy(), 'output': model(x).detach().numpy()}
  result |= {f'state/{key}': value for key, value in arrays_of(model).items()}
  parameters = [p for p in model.parameters() if p.requires_grad]
  optimizer = (
    torch.optim.Adam(parameters, 1e-3) if name in ADAM else torch.optim.SGD(parameters, 0.1)
  )
  loss_of(model(x)).backward()
  optimizer.step()
  return result | {f'after/{key}': value for key, value in arrays_of(model).items()}


if __name__ == '__main__':
  arrays = {f'{name}/{key}': value for name in CASES for key, value in reference(name).items()}
  np.savez_compressed(FILE, **arrays)
  print(f'{FILE}: {len(arrays)} arrays, {FILE.stat().st_size:,} bytes')
