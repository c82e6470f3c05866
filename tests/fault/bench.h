/* SPDX-License-Identifier: MIT */
/* Running the command in a folder of its own. */
#ifndef VT_FAULT_BENCH_H
#define VT_FAULT_BENCH_H

#include <stdint.h>
#include <sys/stat.h>

#include "commands.h"

/* What a child tells its parent. */
struct report {
    uint64_t seen;
    char where[64];
};

struct bench {
    char folder[256];
    struct stat pristine[FIXTURES_MAX];
    struct report *report; /* shared memory */
    uint64_t failures;
    uint64_t injected;
    uint64_t absorbed; /* with exit status 0 all the same */
};

void vt_fault_die(const char *what);

/* Does the command end with status 0, without faults? */
bool vt_fault_succeeds(struct bench *bench, const char *const *args);

/* What is in the file, as far as it fits. */
void vt_fault_read_text(const char *path, char *text, size_t room);

/* A copy in which zeros are holes. */
void vt_fault_copy_file(const char *from, const char *to);

/* Makes a folder with work/, where it goes to, and pristine/, where a copy of each file stays. */
void vt_fault_make_fixtures(struct bench *bench);

#endif
