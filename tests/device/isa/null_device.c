// A Vulkan layer over a driver that compiles for a GPU which is not there: it answers for memory, queues and recording,
// so that a program gets as far as making pipelines. What it answers for does nothing; all else is the driver's.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

enum { MEMORY_BYTES = 64 << 20, BUFFER_BYTES = 1 << 20, ALIGNMENT = 256 };
static const uint64_t REACHED = 1ull << 40; // beyond what anybody waits for

static PFN_vkGetInstanceProcAddr next_of_instance;
static PFN_vkGetDeviceProcAddr next_of_device;
static uint64_t handles = 1000;

static void nothing(void) {}
static VkResult success(void) { return VK_SUCCESS; }

// Every object of this layer's own is a number. The ABI passes all of these calls' arguments in registers, by place.
static VkResult make_fourth(void *device, const void *info, const void *allocator, uint64_t *made) {
  (void)device, (void)info, (void)allocator;
  *made = handles++;
  return VK_SUCCESS;
}

static VkResult semaphore_value(VkDevice device, VkSemaphore semaphore, uint64_t *value) {
  (void)device, (void)semaphore;
  *value = REACHED;
  return VK_SUCCESS;
}

static void memory_properties(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties *properties) {
  (void)device;
  memset(properties, 0, sizeof *properties);
  properties->memoryTypeCount = properties->memoryHeapCount = 1;
  properties->memoryTypes[0].propertyFlags =
      VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT |
      VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  properties->memoryHeaps[0].size = 8ull << 30;
  properties->memoryHeaps[0].flags = VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
}

static void memory_properties2(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties2 *properties) {
  memory_properties(device, &properties->memoryProperties);
}

static void requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements *wanted) {
  (void)device, (void)buffer;
  wanted->size = BUFFER_BYTES;
  wanted->alignment = ALIGNMENT;
  wanted->memoryTypeBits = 1;
}

static void requirements2(VkDevice device, const VkBufferMemoryRequirementsInfo2 *info, VkMemoryRequirements2 *wanted) {
  requirements(device, info->buffer, &wanted->memoryRequirements);
}

static VkResult allocate(VkDevice device, const VkMemoryAllocateInfo *info, const void *allocator, void **memory) {
  (void)device, (void)info, (void)allocator;
  *memory = malloc(MEMORY_BYTES);
  return *memory ? VK_SUCCESS : VK_ERROR_OUT_OF_HOST_MEMORY;
}

static VkResult map(VkDevice device, char *memory, VkDeviceSize offset, VkDeviceSize size, VkFlags flags, void **place) {
  (void)device, (void)size, (void)flags;
  *place = memory + offset;
  return VK_SUCCESS;
}

static VkResult descriptor_sets(VkDevice device, const VkDescriptorSetAllocateInfo *info, uint64_t *sets) {
  (void)device;
  for (uint32_t i = 0; i < info->descriptorSetCount; i++) sets[i] = handles++;
  return VK_SUCCESS;
}

static VkDeviceAddress address(void) { return BUFFER_BYTES; }

static PFN_vkVoidFunction of_device(VkDevice device, const char *name);
static PFN_vkVoidFunction of_instance(VkInstance instance, const char *name);

// The loader's link to the next layer down the chain; taking it moves the chain on.
#define TAKE_LINK(info, Type, link, kind)                                                                  \
  Type *link = (Type *)(info)->pNext;                                                                      \
  while (link && !(link->sType == kind && link->function == VK_LAYER_LINK_INFO)) link = (Type *)link->pNext; \
  if (!link) return VK_ERROR_INITIALIZATION_FAILED

static VkResult create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *a, VkInstance *made) {
  TAKE_LINK(info, VkLayerInstanceCreateInfo, link, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO);
  next_of_instance = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  return ((PFN_vkCreateInstance)next_of_instance(NULL, "vkCreateInstance"))(info, a, made);
}

static VkResult create_device(
    VkPhysicalDevice physical, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *a, VkDevice *made) {
  TAKE_LINK(info, VkLayerDeviceCreateInfo, link, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO);
  PFN_vkGetInstanceProcAddr next = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  next_of_device = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  return ((PFN_vkCreateDevice)next(NULL, "vkCreateDevice"))(physical, info, a, made);
}

static const struct {
  const char *name;
  void *function;
} OWN[] = {
    {"vkGetInstanceProcAddr", of_instance},
    {"vkGetDeviceProcAddr", of_device},
    {"vkCreateInstance", create_instance},
    {"vkCreateDevice", create_device},
    // memory
    {"vkGetPhysicalDeviceMemoryProperties", memory_properties},
    {"vkGetPhysicalDeviceMemoryProperties2", memory_properties2},
    {"vkGetPhysicalDeviceMemoryProperties2KHR", memory_properties2},
    {"vkGetBufferMemoryRequirements", requirements},
    {"vkGetBufferMemoryRequirements2", requirements2},
    {"vkGetBufferMemoryRequirements2KHR", requirements2},
    {"vkAllocateMemory", allocate},
    {"vkFreeMemory", nothing},
    {"vkMapMemory", map},
    {"vkUnmapMemory", nothing},
    {"vkFlushMappedMemoryRanges", success},
    {"vkInvalidateMappedMemoryRanges", success},
    {"vkBindBufferMemory", success},
    {"vkBindBufferMemory2", success},
    {"vkGetBufferDeviceAddress", address},
    {"vkGetBufferDeviceAddressKHR", address},
    // queues
    {"vkQueueSubmit", success},
    {"vkQueueSubmit2", success},
    {"vkQueueSubmit2KHR", success},
    {"vkQueueWaitIdle", success},
    {"vkDeviceWaitIdle", success},
    {"vkCreateFence", make_fourth},
    {"vkDestroyFence", nothing},
    {"vkResetFences", success},
    {"vkWaitForFences", success},
    {"vkGetFenceStatus", success},
    {"vkCreateSemaphore", make_fourth},
    {"vkDestroySemaphore", nothing},
    {"vkSignalSemaphore", success},
    {"vkSignalSemaphoreKHR", success},
    {"vkWaitSemaphores", success},
    {"vkWaitSemaphoresKHR", success},
    {"vkGetSemaphoreCounterValue", semaphore_value},
    {"vkGetSemaphoreCounterValueKHR", semaphore_value},
    // descriptors and recording
    {"vkCreateDescriptorPool", make_fourth},
    {"vkDestroyDescriptorPool", nothing},
    {"vkResetDescriptorPool", success},
    {"vkAllocateDescriptorSets", descriptor_sets},
    {"vkFreeDescriptorSets", success},
    {"vkUpdateDescriptorSets", nothing},
    {"vkBeginCommandBuffer", success},
    {"vkEndCommandBuffer", success},
    {"vkResetCommandPool", success},
    {"vkResetCommandBuffer", success},
    {"vkCmdFillBuffer", nothing},
    {"vkCmdCopyBuffer", nothing},
    {"vkCmdUpdateBuffer", nothing},
    {"vkCmdPipelineBarrier", nothing},
};

static PFN_vkVoidFunction own(const char *name) {
  for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++)
    if (!strcmp(name, OWN[i].name)) return (PFN_vkVoidFunction)OWN[i].function;
  return NULL;
}

static PFN_vkVoidFunction of_device(VkDevice device, const char *name) {
  PFN_vkVoidFunction found = own(name);
  return found ? found : next_of_device(device, name);
}

static PFN_vkVoidFunction of_instance(VkInstance instance, const char *name) {
  PFN_vkVoidFunction found = own(name);
  return found ? found : next_of_instance(instance, name);
}

VK_LAYER_EXPORT VkResult vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *version) {
  version->loaderLayerInterfaceVersion = 2;
  version->pfnGetInstanceProcAddr = of_instance;
  version->pfnGetDeviceProcAddr = of_device;
  version->pfnGetPhysicalDeviceProcAddr = NULL;
  return VK_SUCCESS;
}
