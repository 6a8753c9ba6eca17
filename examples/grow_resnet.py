"""Grow a ResNet in the middle of a plain training loop: wider at a third, deeper at two thirds.

    python examples/grow_resnet.py

Nothing in the network or in the loop is written for graftwork. The data is random and the network tiny, so that it runs
in seconds; what to look at is the loss, which does not jump, and the optimizer, which goes on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graftwork as gw


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Two stages and a classifier."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.layers = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


def main() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(256, 3, 12, 12), torch.randint(5, (256,))
    images += labels[:, None, None, None] * 0.3  # something to learn

    model = ResNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    growths = {
        20: gw.WidenAll(1.5, only="layers.*.conv1"),  # half as many hidden channels again in every block
        40: gw.Deepen("layers.1"),  # one more residual block at the end
    }

    for step in range(60):
        if step in growths:
            before = loss_on(model, images, labels)
            receipt = gw.grow(model, growths[step], example_input=images[:8], optimizer=optimizer)
            print(receipt)
            print(f"loss {before:.5f} -> {loss_on(model, images, labels):.5f}\n")
        batch = torch.randint(256, (32,))
        model.train()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    print(f"loss at the end {loss_on(model, images, labels):.5f}")


@torch.no_grad()
def loss_on(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    return F.cross_entropy(model(images), labels).item()


if __name__ == "__main__":
    main()
