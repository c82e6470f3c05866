/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzzer without libFuzzer: each file of the corpus, then the same files with random
 * changes.
 *
 *     replay-TARGET CORPUS-DIRECTORY
 *
 * FUZZ_RUNS=N (default 200) is the number of changed inputs, FUZZ_SEED=N repeats a run.  An input
 * that crashes, or takes longer than RUN_SECONDS_MAX, is left in replay-TARGET.crash.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INPUT_BYTES_MAX 8192u
#define RUN_SECONDS_MAX 60u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

struct sample {
    char name[512];
    uint8_t bytes[INPUT_BYTES_MAX];
    size_t length;
};

/* SplitMix64. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t value = *state += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static int is_file_name(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int load(struct sample *sample, const char *directory, const char *name)
{
    snprintf(sample->name, sizeof(sample->name), "%s/%s", directory, name);
    FILE *file = fopen(sample->name, "rb");
    if (!file)
        return -1;
    sample->length = fread(sample->bytes, 1, sizeof(sample->bytes), file);
    return fclose(file);
}

/* A copy on the heap, of the exact length, so that a read past its end is seen. */
static void run(const uint8_t *bytes, size_t length, const char *crash_name)
{
    uint8_t *copy = malloc(length ? length : 1);
    if (!copy)
        abort();
    memcpy(copy, bytes, length);

    /* Kept until it has passed: a crash leaves it there. */
    FILE *file = fopen(crash_name, "wb");
    if (!file || fwrite(copy, 1, length, file) != length || fclose(file) != 0)
        abort();
    alarm(RUN_SECONDS_MAX);
    LLVMFuzzerTestOneInput(copy, length);
    alarm(0);
    free(copy);
}

static void mutate(struct sample *sample, uint64_t *state)
{
    size_t changes = 1 + next_random(state) % 8;
    for (size_t i = 0; i < changes; i++) {
        size_t at = next_random(state) % (sample->length + 1);
        uint8_t value = (uint8_t)next_random(state);
        switch (next_random(state) % 4) {
        case 0:
            if (sample->length < INPUT_BYTES_MAX) {
                memmove(sample->bytes + at + 1, sample->bytes + at, sample->length - at);
                sample->bytes[at] = value;
                sample->length++;
            }
            break;
        case 1:
            sample->length = at;
            break;
        case 2:
            if (at < sample->length)
                sample->bytes[at] ^= (uint8_t)(1u << (value % 8));
            break;
        default:
            if (at < sample->length)
                sample->bytes[at] = value & 1 ? value : 0xFF;
            break;
        }
    }
}

static uint64_t number_of(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

/* Changed inputs, one made from the other or from a file of the corpus. */
static void run_changed(const struct sample *samples, uint64_t files, uint64_t runs, uint64_t state,
                        const char *crash_name)
{
    struct sample sample = samples[0];
    for (uint64_t i = 0; i < runs; i++) {
        if (next_random(&state) % 4 == 0)
            sample = samples[next_random(&state) % files];
        mutate(&sample, &state);
        run(sample.bytes, sample.length, crash_name);
    }
}

int main(int argc, char **argv)
{
    struct dirent **entries;
    int files = argc == 2 ? scandir(argv[1], &entries, is_file_name, alphasort) : -1;
    struct sample *samples = files > 0 ? calloc((size_t)files, sizeof(*samples)) : NULL;
    char crash_name[512];
    if (!samples) {
        fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
        return 1;
    }
    const char *slash = strrchr(argv[0], '/');
    snprintf(crash_name, sizeof(crash_name), "%s.crash", slash ? slash + 1 : argv[0]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..%d\n", files + 1);

    for (int i = 0; i < files; i++) {
        if (load(&samples[i], argv[1], entries[i]->d_name) != 0) {
            perror(samples[i].name);
            return 1;
        }
        run(samples[i].bytes, samples[i].length, crash_name);
        printf("ok %d - %s\n", i + 1, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);

    uint64_t runs = number_of("FUZZ_RUNS", 200);
    uint64_t seed = number_of("FUZZ_SEED", (uint64_t)time(NULL));
    printf("# FUZZ_SEED=%" PRIu64 " FUZZ_RUNS=%" PRIu64 "\n", seed, runs);
    run_changed(samples, (uint64_t)files, runs, seed, crash_name);
    printf("ok %d - inputs made from these by random changes\n", files + 1);
    remove(crash_name);
    free(samples);
    return 0;
}
