// What the programs share: the driver's functions, declared here so that no CUDA header is needed, and checks.

#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef unsigned long long device_address;
extern int cuInit(unsigned);
extern int cuDeviceGet(int *, int);
extern int cuCtxCreate_v2(void **, unsigned, int);
extern int cuCtxGetCurrent(void **);
extern int cuCtxSetCurrent(void *);
extern int cuCtxDestroy_v2(void *);
extern int cuMemAlloc_v2(device_address *, size_t);
extern int cuMemGetAddressRange_v2(device_address *, size_t *, device_address);
extern int cuMemcpyHtoD_v2(device_address, const void *, size_t);
extern int cuMemcpyDtoH_v2(void *, device_address, size_t);
extern int cuCtxSynchronize(void);

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            fprintf(stderr, "%s:%d: %s; %s\n", __FILE__, __LINE__, #condition, attn_last_error());        \
            return 1;                                                                                     \
        }                                                                                                 \
    } while (0)

// Device memory with these bytes; 0 where there is none.
static inline device_address upload(const void *data, size_t bytes) {
    device_address address = 0;
    if (cuMemAlloc_v2(&address, bytes) != 0) return 0;
    return cuMemcpyHtoD_v2(address, data, bytes) == 0 ? address : 0;
}

static inline int says(const char *part) {
    return attn_last_error() != NULL && strstr(attn_last_error(), part) != NULL;
}
