"""WebGPU's limits, under the API's own names: the one place for what kernels, planner and validator hold to.

`web/src/artifact/` has the defaults again, for the validator's twin.
"""

# What every device gives (https://www.w3.org/TR/webgpu/#limits); a variant's `required_limits` raises them.
DEFAULT_LIMITS = {
    "maxBufferSize": 268435456,
    "maxStorageBufferBindingSize": 134217728,
    "maxStorageBuffersPerShaderStage": 8,
    "maxComputeWorkgroupStorageSize": 16384,
    "maxComputeInvocationsPerWorkgroup": 256,
    "maxComputeWorkgroupSizeX": 256,
    "maxComputeWorkgroupSizeY": 256,
    "maxComputeWorkgroupSizeZ": 64,
    "maxComputeWorkgroupsPerDimension": 65535,
}
# In compatibility mode, WebGPU on OpenGL ES and Direct3D 11, which has no subgroups.
COMPATIBILITY_INVOCATIONS = 128
# What browsers offer on the GPUs of desktops as maxStorageBufferBindingSize, which is as far as a variant may ask.
LARGEST_BINDING = 2**31 - 4
