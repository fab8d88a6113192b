import pytest
import torch
from torch import nn

from app.small.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (48, 48)])
def test_an_update_is_nearly_orthogonal_and_points_where_the_matrix_does(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonal(matrix, torch.float32)
    values = torch.linalg.svdvals(made)
    assert 0.6 < values.min() < values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (made * (left @ right)).sum() / made.norm() / (left @ right).norm() > 0.95


def test_it_steps_as_pytorchs_own_does():
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(48, 36)), nn.Parameter(torch.zeros(48, 36))
    theirs.data.copy_(ours.data)
    mine = Muon([ours], 0.02, 0.1)
    other = torch.optim.Muon([theirs], 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(48, 36)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    assert (ours - theirs).abs().max() < 0.02 * (ours.abs().max())


def test_convolutions_are_taken_as_rows_and_weights_without_gradient_stay():
    weight, idle = nn.Parameter(torch.zeros(32, 8, 5)), nn.Parameter(torch.ones(32, 32))
    weight.grad = torch.randn(32, 8, 5)
    optimizer = Muon([weight, idle], 0.1, 0.0)
    optimizer.step()
    torch.testing.assert_close(idle.data, torch.ones(32, 32))
    rms = weight.square().mean().sqrt().item()
    assert 0.1 * 0.2 * 0.6 < rms < 0.1 * 0.2 * 1.4  # the learning rate times the size of AdamW's updates
    restored = Muon([weight, idle], 0.1, 0.0)
    restored.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(restored.state[weight]["momentum"], optimizer.state[weight]["momentum"])
