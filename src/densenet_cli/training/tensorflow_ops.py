"""The op set for training on the TensorFlow backend: Keras' layers on faster kernels.

Import this module on that backend only. The layers have the weights, names, and results of Keras' layers.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from densenet_cli.engines.keras_ops import KerasOps, Tensor
from densenet_cli.topology import BN_EPSILON


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]  # keras has no annotations
    """``keras.layers.BatchNormalization`` for images, channels last, in one pass of TensorFlow's fused kernel.

    TensorFlow executes Keras' layer as a dozen passes in float32. The kernel computes in float32 as well, but reads and
    writes the dtype of its input. Frozen layers use their moving statistics, as in Keras.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalize ``inputs`` (n, height, width, channels)."""
        if len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        is_training = bool(training) and self.trainable
        gamma, beta, moving_mean, moving_variance = map(
            tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            gamma,
            beta,
            mean=None if is_training else moving_mean,
            variance=None if is_training else moving_variance,
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            # The kernel returns the unbiased variance. Keras averages the biased one.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), variance.dtype)
            variance *= (count - 1) / count
            self.moving_mean.assign(moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


class PointwiseConv2D(keras.layers.Conv2D):  # type: ignore[misc]  # keras has no annotations
    """A 1x1 convolution of stride 1. In bfloat16 on CPUs, the gradient of its kernel is a matrix product.

    With AMX instructions, the product takes half the time of TensorFlow's convolution gradient. In float32, it takes
    longer.
    """

    def convolution_op(self, inputs: Tensor, kernel: Any) -> Tensor:
        """Return the convolution of ``inputs`` (n, height, width, channels)."""
        if self.compute_dtype != "bfloat16" or tf.config.list_physical_devices("GPU"):
            return super().convolution_op(inputs, kernel)
        return _pointwise_conv(inputs, tf.convert_to_tensor(kernel))


@tf.custom_gradient  # type: ignore[untyped-decorator]  # tensorflow has no annotations
def _pointwise_conv(x: Tensor, kernel: Tensor) -> Any:
    def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
        dx = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=[1, 1, 1, 1], padding="VALID"
        )
        _, _, inputs, outputs = kernel.shape
        product = tf.matmul(tf.reshape(x, (-1, inputs)), tf.reshape(dy, (-1, outputs)), transpose_a=True)
        return dx, product[None, None]

    return tf.nn.conv2d(x, kernel, strides=1, padding="VALID"), gradient


class TensorFlowOps(KerasOps):
    """Implements ``topology.Ops`` for training, with the layers of this module."""

    def conv(self, x: Tensor, name: str, *, filters: int, kernel: int, stride: int = 1) -> Tensor:
        if kernel > 1 or stride > 1:
            return super().conv(x, name, filters=filters, kernel=kernel, stride=stride)
        return PointwiseConv2D(filters, 1, use_bias=False, kernel_initializer="he_normal", name=name)(x)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        return FusedBatchNormalization(epsilon=BN_EPSILON, name=name)(x)
