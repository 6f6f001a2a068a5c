"""What recipes mean, computed: encode, decode, scale rules, quantize, dequantize, pack.

Written once over the primitives of `breccia.arrays`; on NumPy it is the reference for every target. Elements are
unsigned codes here; packed storage and dtype views belong to `ScaledTensor`.
"""

from breccia.numerics.decode import decode as decode
from breccia.numerics.delayed import delayed_scale as delayed_scale
from breccia.numerics.delayed import update_history as update_history
from breccia.numerics.dequantize import dequantize as dequantize
from breccia.numerics.encode import encode as encode
from breccia.numerics.given import any_given as any_given
from breccia.numerics.pack import pack as pack
from breccia.numerics.pack import packed_length as packed_length
from breccia.numerics.pack import unpack as unpack
from breccia.numerics.quantize import Components as Components
from breccia.numerics.quantize import quantize as quantize
from breccia.numerics.scale_rules import block_amax as block_amax
from breccia.numerics.scale_rules import finite_amax as finite_amax
from breccia.numerics.scale_rules import outer_scales as outer_scales
from breccia.numerics.scale_rules import scale_from_amax as scale_from_amax
from breccia.numerics.scale_rules import scale_shape as scale_shape
from breccia.numerics.tiles import level_scales as level_scales
from breccia.numerics.tiles import quantize_tile as quantize_tile
