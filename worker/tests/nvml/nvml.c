/* A libnvidia-ml.so.1 for tests: the functions that Marquee calls, with the answers that a file
 * gives. FAKE_NVML names the file; it is read again at each call, so that a test can change it under
 * a running program. Lines are "key value"; keys of a device begin with its number: "0.power 139000".
 *
 * "0.return 15" makes every call about device 0 fail with that code, "0.return.ecc 3" those of one
 * kind; "hang 1" makes calls about device 1 never return. With -DOLD_DRIVER the library lacks what
 * drivers before 510 lack.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Return;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, TIMEOUT = 10 };

/* A device's handle is its number, counted from 1 so that it is not null. */
typedef struct Device *Handle;
static int number(Handle device) { return (int)(long)device - 1; }
static Handle handle(int index) { return (Handle)(long)(index + 1); }

/* The value of `key`, in a buffer of the calling thread; null where the file has none. */
static const char *find(const char *key) {
    static __thread char value[512];
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return NULL;
    char line[512];
    const char *found = NULL;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            strcpy(value, line + length + 1);
            value[strcspn(value, "\n")] = 0;
            found = value;
        }
    }
    fclose(file);
    return found;
}

static long long integer(const char *key, long long otherwise) {
    const char *value = find(key);
    return value ? strtoll(value, NULL, 10) : otherwise;
}

static const char *device_key(int index, const char *name) {
    static __thread char key[128];
    snprintf(key, sizeof key, "%d.%s", index, name);
    return key;
}

static long long of(Handle device, const char *name, long long otherwise) {
    return integer(device_key(number(device), name), otherwise);
}

/* What a call of a kind about a device answers, before its value is looked at. */
static Return answer(Handle device, const char *kind) {
    while (integer("hang", -1) == number(device)) usleep(50000);
    char name[64];
    snprintf(name, sizeof name, "return.%s", kind);
    return (Return)of(device, name, of(device, "return", OK));
}

static Return text(char *out, unsigned size, const char *value) {
    if (!value) return UNSUPPORTED;
    if (strlen(value) + 1 > size) return TOO_SMALL;
    strcpy(out, value);
    return OK;
}

/* A number of a device; a device whose file has none does not support it. */
static Return value(Handle device, const char *name, unsigned *out) {
    Return code = answer(device, name);
    if (code != OK) return code;
    long long found = of(device, name, -1);
    if (found < 0) return UNSUPPORTED;
    *out = (unsigned)found;
    return OK;
}

Return nvmlInit_v2(void) { return (Return)integer("init", OK); }
Return nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(Return code) { (void)code; return "an error"; }

Return nvmlSystemGetDriverVersion(char *out, unsigned size) { return text(out, size, find("driver")); }
Return nvmlSystemGetNVMLVersion(char *out, unsigned size) { return text(out, size, find("driver")); }
Return nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = (int)integer("cuda", 0);
    return *out ? OK : UNSUPPORTED;
}
Return nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size) {
    char key[64];
    snprintf(key, sizeof key, "process.%u", pid);
    const char *name = find(key);
    return name ? text(out, size, name) : NOT_FOUND;
}

Return nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)integer("count", 0); return OK; }
Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *out) {
    if (index >= (unsigned)integer("count", 0)) return INVALID;
    *out = handle((int)index);
    return answer(*out, "handle");
}
Return nvmlDeviceGetHandleByUUID(const char *uuid, Handle *out) {
    /* MIG instances are found by their names, and not counted. */
    int count = (int)integer("devices", integer("count", 0));
    for (int index = 0; index < count; index++) {
        const char *found = find(device_key(index, "uuid"));
        if (found && strcmp(found, uuid) == 0) {
            *out = handle(index);
            return answer(*out, "handle");
        }
    }
    return NOT_FOUND;
}
Return nvmlDeviceGetIndex(Handle d, unsigned *out) { *out = (unsigned)number(d); return OK; }
Return nvmlDeviceGetName(Handle d, char *out, unsigned size) {
    Return code = answer(d, "name");
    return code ? code : text(out, size, find(device_key(number(d), "name")));
}
Return nvmlDeviceGetUUID(Handle d, char *out, unsigned size) {
    Return code = answer(d, "uuid");
    return code ? code : text(out, size, find(device_key(number(d), "uuid")));
}
Return nvmlDeviceGetCudaComputeCapability(Handle d, int *major, int *minor) {
    Return code = answer(d, "capability");
    if (code) return code;
    long long capability = of(d, "capability", 80);
    *major = (int)(capability / 10);
    *minor = (int)(capability % 10);
    return OK;
}
Return nvmlDeviceGetMinorNumber(Handle d, unsigned *out) {
    *out = (unsigned)of(d, "minor", number(d));
    return answer(d, "minor");
}

struct Utilisation { unsigned gpu, memory; };
Return nvmlDeviceGetUtilizationRates(Handle d, struct Utilisation *out) {
    Return code = value(d, "utilisation", &out->gpu);
    return code ? code : value(d, "memory_utilisation", &out->memory);
}
struct Memory { unsigned long long total, free, used; };
Return nvmlDeviceGetMemoryInfo(Handle d, struct Memory *out) {
    out->total = (unsigned long long)of(d, "memory_total", 0);
    out->used = (unsigned long long)of(d, "memory_used", 0);
    out->free = out->total - out->used;
    return answer(d, "memory");
}
#ifndef OLD_DRIVER
struct Memory2 { unsigned version; unsigned long long total, reserved, free, used; };
Return nvmlDeviceGetMemoryInfo_v2(Handle d, struct Memory2 *out) {
    out->total = (unsigned long long)of(d, "memory_total", 0);
    out->used = (unsigned long long)of(d, "memory_used", 0);
    out->reserved = 0;
    out->free = out->total - out->used;
    return answer(d, "memory");
}
#endif
Return nvmlDeviceGetPowerUsage(Handle d, unsigned *out) { return value(d, "power", out); }
Return nvmlDeviceGetEnforcedPowerLimit(Handle d, unsigned *out) { return value(d, "power_limit", out); }
Return nvmlDeviceGetPowerManagementLimit(Handle d, unsigned *out) { return value(d, "power_limit", out); }
Return nvmlDeviceGetTemperature(Handle d, int sensor, unsigned *out) {
    return sensor == 0 ? value(d, "temperature", out) : INVALID;
}
Return nvmlDeviceGetTemperatureThreshold(Handle d, int which, unsigned *out) {
    return which == 1 ? value(d, "slowdown", out) : UNSUPPORTED;
}
Return nvmlDeviceGetFanSpeed_v2(Handle d, unsigned fan, unsigned *out) {
    return fan == 0 ? value(d, "fan", out) : INVALID;
}
/* Clocks: 1 is the streaming multiprocessors', 2 the memory's. */
Return nvmlDeviceGetClockInfo(Handle d, int clock, unsigned *out) {
    return value(d, clock == 1 ? "sm_clock" : "memory_clock", out);
}
Return nvmlDeviceGetMaxClockInfo(Handle d, int clock, unsigned *out) {
    return value(d, clock == 1 ? "sm_clock_max" : "memory_clock_max", out);
}
Return nvmlDeviceGetCurrentClocksThrottleReasons(Handle d, unsigned long long *out) {
    *out = (unsigned long long)of(d, "throttle", 0);
    return answer(d, "throttle");
}
Return nvmlDeviceGetPerformanceState(Handle d, int *out) {
    *out = (int)of(d, "pstate", 0);
    return answer(d, "pstate");
}

Return nvmlDeviceGetEccMode(Handle d, int *current, int *pending) {
    Return code = answer(d, "ecc");
    long long mode = of(d, "ecc", -1);
    if (code || mode < 0) return code ? code : UNSUPPORTED;
    *current = *pending = (int)mode;
    return OK;
}
Return nvmlDeviceGetTotalEccErrors(Handle d, int kind, int counter, unsigned long long *out) {
    static const char *names[2][2] = {{"ecc.corrected.volatile", "ecc.corrected.aggregate"},
                                      {"ecc.uncorrected.volatile", "ecc.uncorrected.aggregate"}};
    *out = (unsigned long long)of(d, names[kind][counter], 0);
    return answer(d, "ecc");
}

Return nvmlDeviceGetCurrPcieLinkGeneration(Handle d, unsigned *out) { return value(d, "pcie_generation", out); }
Return nvmlDeviceGetMaxPcieLinkGeneration(Handle d, unsigned *out) { return value(d, "pcie_generation_max", out); }
Return nvmlDeviceGetCurrPcieLinkWidth(Handle d, unsigned *out) { return value(d, "pcie_width", out); }
Return nvmlDeviceGetMaxPcieLinkWidth(Handle d, unsigned *out) { return value(d, "pcie_width_max", out); }
struct Pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};
Return nvmlDeviceGetPciInfo_v3(Handle d, struct Pci *out) {
    memset(out, 0, sizeof *out);
    Return code = answer(d, "pci");
    return code ? code : text(out->bus_id, sizeof out->bus_id, find(device_key(number(d), "bus")));
}
Return nvmlDeviceGetPersistenceMode(Handle d, int *out) {
    unsigned mode = 0;
    Return code = value(d, "persistence", &mode);
    *out = (int)mode;
    return code;
}
Return nvmlDeviceGetComputeMode(Handle d, int *out) {
    *out = (int)of(d, "compute_mode", 0);
    return answer(d, "compute_mode");
}
Return nvmlDeviceGetMigMode(Handle d, unsigned *current, unsigned *pending) {
    Return code = value(d, "mig", current);
    *pending = *current;
    return code;
}

/* "0.mig.slots 7" and "0.mig.2 5": of device 0's slots number 2 has an instance, which is device 5. */
Return nvmlDeviceGetMaxMigDeviceCount(Handle d, unsigned *out) {
    *out = (unsigned)of(d, "mig.slots", 0);
    return answer(d, "mig");
}
Return nvmlDeviceGetMigDeviceHandleByIndex(Handle d, unsigned slot, Handle *out) {
    char name[64];
    snprintf(name, sizeof name, "mig.%u", slot);
    long long found = of(d, name, -1);
    if (found < 0) return NOT_FOUND;
    *out = handle((int)found);
    return answer(d, "mig");
}

Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle d, Handle *out) {
    long long found = of(d, "mig.of", -1);
    if (found < 0) return UNSUPPORTED;
    *out = handle((int)found);
    return OK;
}

/* Whether rows wait to be remapped (144) and whether a remap failed (145): "0.remap_pending 1". */
struct Field {
    unsigned id, scope;
    long long timestamp, latency;
    int type, code;
    unsigned long long value;
};
Return nvmlDeviceGetFieldValues(Handle d, int count, struct Field *fields) {
    for (int at = 0; at < count; at++) {
        long long found = of(d, fields[at].id == 144 ? "remap_pending" : "remap_failed", -1);
        fields[at].code = found < 0 ? UNSUPPORTED : OK;
        fields[at].type = 1;
        fields[at].value = (unsigned long long)(found < 0 ? 0 : found);
    }
    return answer(d, "fields");
}
Return nvmlDeviceGetRetiredPagesPendingStatus(Handle d, int *out) {
    unsigned pending = 0;
    Return code = value(d, "retired_pending", &pending);
    *out = (int)pending;
    return code;
}

struct Process { unsigned pid; unsigned long long memory; unsigned instance, compute_instance; };
static Return processes(Handle d, unsigned *count, struct Process *out) {
    Return code = answer(d, "processes");
    if (code) return code;
    unsigned found = (unsigned)of(d, "processes", 0);
    unsigned room = *count;
    *count = found;
    if (found == 0) return OK;
    if (!out || room < found) return TOO_SMALL;
    for (unsigned at = 0; at < found; at++) {
        char name[64];
        snprintf(name, sizeof name, "process.%u.pid", at);
        out[at].pid = (unsigned)of(d, name, 0);
        snprintf(name, sizeof name, "process.%u.memory", at);
        out[at].memory = (unsigned long long)of(d, name, 0);
        out[at].instance = out[at].compute_instance = 0xffffffff;
    }
    return OK;
}
Return nvmlDeviceGetComputeRunningProcesses_v2(Handle d, unsigned *count, struct Process *out) {
    return processes(d, count, out);
}
#ifndef OLD_DRIVER
Return nvmlDeviceGetComputeRunningProcesses_v3(Handle d, unsigned *count, struct Process *out) {
    return processes(d, count, out);
}
#endif

/* 0 is "OK" for every pair but the one that the file names as "p2p.0.1 3". */
Return nvmlDeviceGetP2PStatus(Handle a, Handle b, int capability, int *out) {
    char key[64];
    (void)capability;
    snprintf(key, sizeof key, "p2p.%d.%d", number(a), number(b));
    *out = (int)integer(key, OK);
    return OK;
}

/* One set of events, enough for one program. An Xid is delivered once for each new "xid.serial". */
static long long delivered;
Return nvmlEventSetCreate(void **out) { *out = &delivered; return OK; }
Return nvmlEventSetFree(void *set) { (void)set; return OK; }
Return nvmlDeviceGetSupportedEventTypes(Handle d, unsigned long long *out) {
    *out = of(d, "events", 1) ? 8 : 0;
    return answer(d, "events");
}
Return nvmlDeviceRegisterEvents(Handle d, unsigned long long types, void *set) {
    (void)set;
    return types == 8 ? answer(d, "events") : INVALID;
}
struct Event { Handle device; unsigned long long type, data; unsigned instance, compute_instance; };
Return nvmlEventSetWait_v2(void *set, struct Event *out, unsigned milliseconds) {
    (void)set;
    for (unsigned waited = 0; waited < milliseconds; waited += 20) {
        long long serial = integer("xid.serial", 0);
        if (serial > delivered) {
            delivered = serial;
            memset(out, 0, sizeof *out);
            out->device = handle((int)integer("xid.device", 0));
            out->type = 8;
            out->data = (unsigned long long)integer("xid", 0);
            return OK;
        }
        usleep(20000);
    }
    return TIMEOUT;
}
