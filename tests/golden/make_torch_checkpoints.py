"""Write the golden PyTorch checkpoints; needs torch, which the project itself does not.

python tests/golden/make_torch_checkpoints.py
"""

import pathlib

import torch

grid = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
tensors = {
    "plain": grid.clone(),
    "transposed": grid.permute(2, 0, 1),
    "shifted": grid[1:, 1:, 1:],
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "long": torch.tensor([2**40, -1]),
    "scalar": torch.tensor(7.0),
    "parameter": torch.nn.Parameter(torch.tensor([1.0, 2.0])),
}
folder = pathlib.Path(__file__).parent
torch.save(tensors, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False)
torch.save(tensors, folder / "torch_zip.pth")
torch.save({"epoch": 3, "lr": 0.1, "state_dict": tensors}, folder / "torch_state_dict.pth")
