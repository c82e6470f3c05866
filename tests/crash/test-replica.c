/* SPDX-License-Identifier: MIT */
/*
 * Power cuts at every change and flush of a replica's file while a sync is applied to it: whatever
 * is found afterwards, a block whose version is the master's holds the master's data, and the sync
 * can go on from there (format/gow/replica.h, R1 to R3).
 *
 * VD_CRASH_ROUNDS: syncs that are cut, default 12; 300 for a full run.
 * VD_CRASH_SEED: seed, default a fixed one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "format/driver.h"
#include "format/gow/replica.h"

#define BLOCKS_MAX 40u
#define BATCH_MAX  6u

/* A master, made of nothing but rules: the data of a block follows from its version. */
struct master {
    struct vd_gow_header header;
    uint32_t versions[BLOCKS_MAX];
    bool has_data[BLOCKS_MAX];
};

struct run {
    struct master from, to;
    bool forget;
    struct vt_random dice;
    uint64_t cuts, states, equal_blocks, complete;
};

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static void block_data(const struct master *master, uint32_t block, uint8_t *data)
{
    struct vt_random random = {vt_mix(block + 1) ^ vt_mix(((uint64_t)master->header.uuid[0] << 32) |
                                                          master->versions[block])};
    vt_random_fill(&random, data, VD_GOW_BLOCK_BYTES);
}

static uint32_t block_count(const struct master *master)
{
    return vd_gow_block_count(master->header.size);
}

/* ---- a sync, as job/ does it ---- */

static void apply_batch(struct run *run, struct vd_storage *file, struct vd_replica *replica,
                        const uint32_t *blocks, size_t count)
{
    struct vd_gow_layout layout = vd_gow_layout_of(3);
    struct vd_replica_change changes[BATCH_MAX];
    uint8_t *data = vt_calloc(1, VD_GOW_BLOCK_BYTES);
    for (size_t i = 0; i < count; i++) {
        changes[i] =
            (struct vd_replica_change){.block = blocks[i], .version = run->to.versions[blocks[i]]};
        VT_OK(vd_replica_place(replica, blocks[i], &changes[i].host, &vt_err));
        block_data(&run->to, blocks[i], data);
        VT_OK(vd_storage_pwrite(file, data, VD_GOW_BLOCK_BYTES,
                                vd_gow_host_offset(&layout, changes[i].host), &vt_err));
    }
    VT_OK(vd_replica_commit(replica, changes, count, &vt_err));
    free(data);
}

static void commit_bare(struct run *run, struct vd_replica *replica)
{
    struct vd_replica_change bare[BLOCKS_MAX];
    size_t count = 0;
    for (uint32_t block = 0; block < vd_replica_block_count(replica); block++) {
        bool is_past_end = block >= block_count(&run->to);
        uint32_t version = is_past_end ? 0 : run->to.versions[block];
        if (!is_past_end && run->to.has_data[block])
            continue;
        if (vd_replica_version(replica, block) == version &&
            vd_replica_host(replica, block) == VD_GOW_UNALLOCATED)
            continue;
        bare[count++] = (struct vd_replica_change){
            .block = block, .version = version, .host = VD_GOW_UNALLOCATED};
    }
    VT_OK(vd_replica_commit(replica, bare, count, &vt_err));
}

static void sync_to(struct run *run, struct vd_storage *file, bool forget)
{
    struct vd_replica *replica;
    uint32_t batch[BATCH_MAX];
    size_t count = 0;
    VT_OK(vd_replica_open(file, &replica, &vt_err));
    VT_OK(vd_replica_begin(replica, &run->to.header, forget, &vt_err));
    commit_bare(run, replica);
    uint32_t blocks = block_count(&run->to);
    uint32_t start = (uint32_t)vt_random_below(&run->dice, blocks); /* any order will do */
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t block = (start + i * 7) % blocks;
        if (blocks % 7 == 0)
            block = i;
        if (!run->to.has_data[block] ||
            vd_replica_version(replica, block) == run->to.versions[block])
            continue;
        batch[count++] = block;
        if (count == BATCH_MAX || vt_random_chance(&run->dice, 30)) {
            apply_batch(run, file, replica, batch, count);
            count = 0;
        }
    }
    apply_batch(run, file, replica, batch, count);
    VT_OK(vd_replica_finish(replica, &run->to.header, &vt_err));
    vd_replica_close(replica);
}

/* ---- what has to hold ---- */

static void check_block(struct run *run, struct vd_storage *file, const struct vd_replica *replica,
                        const struct master *master, uint32_t block)
{
    uint32_t host = vd_replica_host(replica, block);
    if (!master->has_data[block]) {
        assert_int_equal(host, VD_GOW_UNALLOCATED);
        return;
    }
    assert_int_not_equal(host, VD_GOW_UNALLOCATED);
    struct vd_gow_layout layout = vd_gow_layout_of(3);
    uint8_t *wanted = vt_calloc(1, VD_GOW_BLOCK_BYTES), *found = vt_calloc(1, VD_GOW_BLOCK_BYTES);
    block_data(master, block, wanted);
    VT_OK(vd_storage_pread(file, found, VD_GOW_BLOCK_BYTES, vd_gow_host_offset(&layout, host),
                           &vt_err));
    assert_memory_equal(found, wanted, VD_GOW_BLOCK_BYTES);
    run->equal_blocks++;
    free(wanted);
    free(found);
}

static void check_complete(struct run *run, struct vd_storage *file,
                           const struct vd_replica *replica, const struct master *master)
{
    const struct vd_gow_header *header = vd_replica_header(replica);
    assert_int_equal(header->size, master->header.size);
    assert_int_equal(header->generation, master->header.generation);
    assert_memory_equal(header->uuid, master->header.uuid, 16);
    for (uint32_t block = 0; block < block_count(master); block++) {
        assert_int_equal(vd_replica_version(replica, block), master->versions[block]);
        check_block(run, file, replica, master, block);
    }
    run->complete++;
}

static void check_state(struct run *run, struct vd_storage *state)
{
    struct vd_replica *replica;
    VT_OK(vd_replica_open(state, &replica, &vt_err));
    const struct vd_gow_header *header = vd_replica_header(replica);
    bool is_ours = memcmp(header->uuid, run->to.header.uuid, 16) == 0;
    if (header->flags == VD_GOW_FLAG_REPLICA) { /* R1 */
        bool is_new = is_ours && header->generation == run->to.header.generation;
        check_complete(run, state, replica, is_new ? &run->to : &run->from);
    } else {
        assert_int_equal(header->flags, VD_GOW_FLAG_REPLICA | VD_GOW_FLAG_INCOMPLETE);
        for (uint32_t block = 0; is_ours && block < block_count(&run->to); block++) { /* R2 */
            uint32_t version = vd_replica_version(replica, block);
            assert_true(version <= run->to.versions[block]);
            if (version == run->to.versions[block] && version != 0)
                check_block(run, state, replica, &run->to, block);
        }
    }
    vd_replica_close(replica);

    sync_to(run, state, !is_ours);
    VT_OK(vd_replica_open(state, &replica, &vt_err));
    check_complete(run, state, replica, &run->to);
    vd_replica_close(replica);
}

static void cut_here(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct run *run = opaque;
    (void)call;
    run->cuts++;
    for (unsigned cut = 0; cut < VT_CUTS; cut++) {
        if (vt_crash_pending(storage) == 0 && cut != VT_CUT_DROP_ALL)
            continue;
        struct vd_storage *state;
        VT_OK(vt_crash_cut(storage, cut, vt_random_next(&run->dice), &state, &vt_err));
        check_state(run, state);
        vd_storage_close(state);
        run->states++;
    }
}

/* ---- masters ---- */

static void first_master(struct run *run)
{
    struct master *master = &run->from;
    *master =
        (struct master){.header = {.version = 3, .generation = 5 + vt_random_below(&run->dice, 5)}};
    master->header.uuid[0] = 1;
    master->header.size = (4 + vt_random_below(&run->dice, BLOCKS_MAX - 4)) * VD_GOW_BLOCK_BYTES -
                          512 * vt_random_below(&run->dice, 128);
    for (uint32_t block = 0; block < block_count(master); block++) {
        master->versions[block] = (uint32_t)vt_random_below(&run->dice, 4);
        master->has_data[block] = master->versions[block] && vt_random_chance(&run->dice, 80);
    }
}

/* The same some sessions later: changed, discarded, of another size. */
static void next_master(struct run *run)
{
    struct master *master = &run->to;
    *master = run->from;
    master->header.generation += 1 + vt_random_below(&run->dice, 3);
    if (vt_random_chance(&run->dice, 40))
        master->header.size = (1 + vt_random_below(&run->dice, BLOCKS_MAX)) * VD_GOW_BLOCK_BYTES;
    for (uint32_t block = 0; block < BLOCKS_MAX; block++) {
        if (block >= block_count(master))
            master->has_data[block] = false;
        if (block >= block_count(master) || vt_random_chance(&run->dice, 40))
            continue;
        master->versions[block] += 1 + (uint32_t)vt_random_below(&run->dice, 2);
        master->has_data[block] = vt_random_chance(&run->dice, 75);
    }
    for (uint32_t block = block_count(master); block < BLOCKS_MAX; block++)
        master->versions[block] = run->from.versions[block] + 1;
    if (run->forget)
        master->header.uuid[0] = 2;
}

/* A replica of run->from, all of it durable. */
static struct vd_storage *first_replica(struct run *run)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = 512};
    struct vdisk_error err = {0};
    struct vd_storage *plain, *crash;
    VT_OK(vt_snap_open(0, &plain, &vt_err));
    const struct vd_format_driver *driver = vd_format_find("gow3", &err);
    assert_non_null(driver);
    VT_OK(vd_format_create(driver, plain, NULL, &create, &vt_err));
    struct master to = run->to;
    run->to = run->from;
    sync_to(run, plain, true);
    run->to = to;
    VT_OK(vt_crash_open(vt_snap_pages(plain), &crash, &vt_err));
    vd_storage_close(plain);
    return crash;
}

static void run_round(struct run *run)
{
    first_master(run);
    run->to = run->from;
    struct vd_storage *file = first_replica(run);
    run->forget = vt_random_chance(&run->dice, 25);
    next_master(run);
    vt_crash_set_hook(file, cut_here, run);
    sync_to(run, file, run->forget);
    vt_crash_set_hook(file, NULL, NULL);
    check_state(run, file);
    vd_storage_close(file);
}

static void test_power_cuts(void **state)
{
    (void)state;
    uint64_t seed = number_from("VD_CRASH_SEED", 20261121);
    uint64_t rounds = number_from("VD_CRASH_ROUNDS", 12);
    struct run run = {.dice = {seed}};
    print_message("# replica: %" PRIu64 " syncs, seed %" PRIu64 "\n", rounds, seed);
    for (uint64_t i = 0; i < rounds; i++)
        run_round(&run);
    print_message("# replica: cuts: %" PRIu64 ", states: %" PRIu64 ", blocks compared: %" PRIu64
                  ", complete states: %" PRIu64 "\n",
                  run.cuts, run.states, run.equal_blocks, run.complete);
    assert_true(run.states > rounds * 20);
    assert_true(run.equal_blocks > run.states);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_cuts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
