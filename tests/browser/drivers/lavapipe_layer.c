/* A Vulkan layer that answers what Chromium asks of a driver and lavapipe of Mesa 22.3 (Debian 12) does not report.
 *
 * It adds to the reported features the dynamic indexing of resource arrays and the conversion of YCbCr samplers, none of
 * which compute shaders use, and takes them out again when a device is created: the driver never sees them. And it gives
 * the ids of SwiftShader, whose adapters Chromium accepts without the sharing of textures between processes. */

#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

enum { SWIFTSHADER_VENDOR = 0x1AE0, SWIFTSHADER_DEVICE = 0xC0DE };

/* What comes after this layer: the driver, or another layer. */
static struct {
    PFN_vkGetInstanceProcAddr get_instance_proc;
    PFN_vkGetDeviceProcAddr get_device_proc;
    VkInstance instance;
    PFN_vkGetPhysicalDeviceFeatures get_features;
    PFN_vkGetPhysicalDeviceFeatures2 get_features2;
    PFN_vkGetPhysicalDeviceProperties get_properties;
    PFN_vkGetPhysicalDeviceProperties2 get_properties2;
} next;

/* ---------------------------------------------------------------------------------------------------------- features */

static void add_features(VkPhysicalDeviceFeatures *features) {
    features->shaderUniformBufferArrayDynamicIndexing = VK_TRUE;
    features->shaderSampledImageArrayDynamicIndexing = VK_TRUE;
    features->shaderStorageBufferArrayDynamicIndexing = VK_TRUE;
    features->shaderStorageImageArrayDynamicIndexing = VK_TRUE;
}

/* VkPhysicalDeviceFeatures is a plain row of VkBool32. */
static void keep_only(VkPhysicalDeviceFeatures *asked, const VkPhysicalDeviceFeatures *real) {
    VkBool32 *wanted = (VkBool32 *)asked;
    const VkBool32 *there = (const VkBool32 *)real;
    for (size_t i = 0; i < sizeof *asked / sizeof *wanted; i++)
        if (!there[i]) wanted[i] = VK_FALSE;
}

static void set_ycbcr_conversion(void *chain, VkBool32 value) {
    for (VkBaseOutStructure *item = chain; item != NULL; item = item->pNext) {
        if (item->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SAMPLER_YCBCR_CONVERSION_FEATURES)
            ((VkPhysicalDeviceSamplerYcbcrConversionFeatures *)item)->samplerYcbcrConversion = value;
        if (item->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES)
            ((VkPhysicalDeviceVulkan11Features *)item)->samplerYcbcrConversion = value;
    }
}

static void VKAPI_CALL get_features(VkPhysicalDevice device, VkPhysicalDeviceFeatures *features) {
    next.get_features(device, features);
    add_features(features);
}

static void VKAPI_CALL get_features2(VkPhysicalDevice device, VkPhysicalDeviceFeatures2 *features) {
    next.get_features2(device, features);
    add_features(&features->features);
    set_ycbcr_conversion(features->pNext, VK_TRUE);
}

/* -------------------------------------------------------------------------------------------------------- properties */

static void set_ids(VkPhysicalDeviceProperties *properties) {
    properties->vendorID = SWIFTSHADER_VENDOR;
    properties->deviceID = SWIFTSHADER_DEVICE;
}

static void VKAPI_CALL get_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *properties) {
    next.get_properties(device, properties);
    set_ids(properties);
}

static void VKAPI_CALL get_properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2 *properties) {
    next.get_properties2(device, properties);
    set_ids(&properties->properties);
}

/* ------------------------------------------------------------------------------------------- instances and devices */

/* The loader hands each layer its link of the chain; a layer takes it and moves the chain on to the next one. */
static VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator,
                                           VkInstance *instance) {
    VkLayerInstanceCreateInfo *link = (void *)info->pNext;
    while (link != NULL &&
           !(link->sType == VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
        link = (void *)link->pNext;
    if (link == NULL) return VK_ERROR_INITIALIZATION_FAILED;
    next.get_instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    PFN_vkCreateInstance create = (PFN_vkCreateInstance)next.get_instance_proc(NULL, "vkCreateInstance");
    VkResult result = create(info, allocator, instance);
    if (result != VK_SUCCESS) return result;
    next.instance = *instance;
#define TAKE(member, function) next.member = (PFN_##function)next.get_instance_proc(*instance, #function)
    TAKE(get_features, vkGetPhysicalDeviceFeatures);
    TAKE(get_features2, vkGetPhysicalDeviceFeatures2);
    TAKE(get_properties, vkGetPhysicalDeviceProperties);
    TAKE(get_properties2, vkGetPhysicalDeviceProperties2);
#undef TAKE
    return VK_SUCCESS;
}

static VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                         const VkAllocationCallbacks *allocator, VkDevice *device) {
    VkLayerDeviceCreateInfo *link = (void *)info->pNext;
    while (link != NULL &&
           !(link->sType == VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
        link = (void *)link->pNext;
    if (link == NULL) return VK_ERROR_INITIALIZATION_FAILED;
    PFN_vkGetInstanceProcAddr get_instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    next.get_device_proc = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;

    VkPhysicalDeviceFeatures real, kept;
    next.get_features(physical, &real);
    VkDeviceCreateInfo asked = *info;
    if (asked.pEnabledFeatures != NULL) {
        kept = *asked.pEnabledFeatures;
        keep_only(&kept, &real);
        asked.pEnabledFeatures = &kept;
    }
    for (VkBaseOutStructure *item = (void *)asked.pNext; item != NULL; item = item->pNext)
        if (item->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2)
            keep_only(&((VkPhysicalDeviceFeatures2 *)item)->features, &real);
    set_ycbcr_conversion((void *)asked.pNext, VK_FALSE);
    PFN_vkCreateDevice create = (PFN_vkCreateDevice)get_instance_proc(next.instance, "vkCreateDevice");
    return create(physical, &asked, allocator, device);
}

/* ------------------------------------------------------------------------------------------------- entries of the layer */

static PFN_vkVoidFunction VKAPI_CALL get_device_proc(VkDevice device, const char *name) {
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)get_device_proc;
    return next.get_device_proc(device, name);
}

static PFN_vkVoidFunction VKAPI_CALL get_instance_proc(VkInstance instance, const char *name) {
    const struct {
        const char *name;
        PFN_vkVoidFunction function;
    } own[] = {
        {"vkGetInstanceProcAddr", (PFN_vkVoidFunction)get_instance_proc},
        {"vkGetDeviceProcAddr", (PFN_vkVoidFunction)get_device_proc},
        {"vkCreateInstance", (PFN_vkVoidFunction)create_instance},
        {"vkCreateDevice", (PFN_vkVoidFunction)create_device},
        {"vkGetPhysicalDeviceFeatures", (PFN_vkVoidFunction)get_features},
        {"vkGetPhysicalDeviceFeatures2", (PFN_vkVoidFunction)get_features2},
        {"vkGetPhysicalDeviceFeatures2KHR", (PFN_vkVoidFunction)get_features2},
        {"vkGetPhysicalDeviceProperties", (PFN_vkVoidFunction)get_properties},
        {"vkGetPhysicalDeviceProperties2", (PFN_vkVoidFunction)get_properties2},
        {"vkGetPhysicalDeviceProperties2KHR", (PFN_vkVoidFunction)get_properties2},
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(name, own[i].name) == 0) return own[i].function;
    return next.get_instance_proc(instance, name);
}

VK_LAYER_EXPORT VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *interface) {
    interface->loaderLayerInterfaceVersion = 2;
    interface->pfnGetInstanceProcAddr = get_instance_proc;
    interface->pfnGetDeviceProcAddr = get_device_proc;
    interface->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}
