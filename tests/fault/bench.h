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

/* Runs a command that makes fixtures, or ends the program. */
void vt_fault_must(struct bench *bench, const char *const *args);
#define VT_FAULT_MUST(bench, ...) vt_fault_must(bench, (const char *const[ARGS_MAX]){__VA_ARGS__})

/* Changes bytes of a file, which may become longer; and reads some. */
void vt_fault_poke(const char *path, off_t offset, const void *bytes, size_t length);
void vt_fault_peek(const char *path, off_t offset, void *bytes, size_t length);

/* A file with @bytes from its start, and then a hole. */
void vt_fault_make_file(const char *path, const void *bytes, size_t length, size_t file_bytes);

#define FAULT_DISK_BYTES (768u * 1024)

/* Those of commands-qcow2.c. */
void vt_fault_make_qcow2_fixtures(struct bench *bench);

/* Makes a folder with work/, where it goes to, and pristine/, where a copy of each file stays. */
void vt_fault_make_fixtures(struct bench *bench);

#endif
