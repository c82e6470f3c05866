/* SPDX-License-Identifier: MIT */
/* vdisk check: is the metadata of an image sound?  Exit statuses and words are qemu-img's. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/output.h"

enum {
    CHECK_CLEAN = 0,
    CHECK_FAILED = 1, /* could not be checked, or not all of it */
    CHECK_CORRUPT = 2,
    CHECK_LEAKS = 3,
    CHECK_UNSUPPORTED = 63,
};

static const struct vd_cli_option options[] = {
    {'r', "repair", "leaks|all", "mend leaked clusters, or everything that can be mended"},
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    enum vdisk_repair *repair = opaque;
    (void)key; /* there is only one */
    if (strcmp(value, "leaks") == 0)
        *repair = VDISK_REPAIR_LEAKS;
    else if (strcmp(value, "all") == 0)
        *repair = VDISK_REPAIR_ALL;
    else
        return vd_cli_usage_error(
            cli, "Unknown option value for -r (expecting 'leaks' or 'all'): %s", value);
    return VD_CLI_GO;
}

/* Findings go to stderr, so that stdout holds nothing but the result. */
static void report(void *opaque, const char *message)
{
    (void)opaque;
    fprintf(stderr, "%s\n", message);
}

/* --- what is printed ------------------------------------------------------------------------- */

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0.0;
}

static void print_human(const struct vdisk_check_result *result)
{
    if (!result->corruptions && !result->leaks && !result->check_errors)
        printf("No errors were found on the image.\n");
    if (result->corruptions)
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               result->corruptions);
    if (result->leaks)
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               result->leaks);
    if (result->check_errors)
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
               result->check_errors);
    if (result->total_clusters && result->allocated_clusters)
        printf("%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% fragmented, "
               "%.2f%% compressed clusters\n",
               result->allocated_clusters, result->total_clusters,
               percent(result->allocated_clusters, result->total_clusters),
               percent(result->fragmented_clusters, result->allocated_clusters),
               percent(result->compressed_clusters, result->allocated_clusters));
    if (result->image_end_offset)
        printf("Image end offset: %" PRIu64 "\n", result->image_end_offset);
}

static void put_if_any(struct vd_json *json, const char *key, uint64_t value)
{
    if (value)
        vd_json_put_u64(json, json->root, key, value);
}

static int print_json(const char *name, const char *format, const struct vdisk_check_result *result)
{
    struct vd_json json;
    vd_json_begin_object(&json);
    put_if_any(&json, "image-end-offset", result->image_end_offset);
    put_if_any(&json, "compressed-clusters", result->compressed_clusters);
    put_if_any(&json, "total-clusters", result->total_clusters);
    put_if_any(&json, "corruptions", result->corruptions);
    vd_json_put_u64(&json, json.root, "check-errors", result->check_errors);
    put_if_any(&json, "leaks", result->leaks);
    put_if_any(&json, "corruptions-fixed", result->corruptions_fixed);
    put_if_any(&json, "leaks-fixed", result->leaks_fixed);
    put_if_any(&json, "allocated-clusters", result->allocated_clusters);
    vd_json_put_name(&json, json.root, "filename", name);
    vd_json_put_text(&json, json.root, "format", format);
    put_if_any(&json, "fragmented-clusters", result->fragmented_clusters);
    return vd_json_print(&json);
}

/* --- the check ------------------------------------------------------------------------------- */

/* After a repair looks again, so that the result is what is really there now. */
static int check_twice(struct vd_cli *cli, struct vdisk_image *image, enum vdisk_repair repair,
                       struct vdisk_check_result *result, struct vdisk_error *err)
{
    *result = (struct vdisk_check_result){.struct_bytes = sizeof(*result)};
    int ret = vdisk_image_check(image, repair, report, NULL, result, err);
    if (ret < 0 || (!result->leaks_fixed && !result->corruptions_fixed))
        return ret;

    struct vdisk_check_result mended = *result;
    if (!cli->quiet && !cli->json)
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               mended.leaks_fixed, mended.corruptions_fixed);
    ret = vdisk_image_check(image, VDISK_REPAIR_NONE, report, NULL, result, err);
    result->leaks_fixed = mended.leaks_fixed;
    result->corruptions_fixed = mended.corruptions_fixed;
    return ret;
}

static int status_of(const struct vdisk_check_result *result)
{
    if (result->check_errors)
        return CHECK_FAILED;
    if (result->corruptions)
        return CHECK_CORRUPT;
    return result->leaks ? CHECK_LEAKS : CHECK_CLEAN;
}

static int check(struct vd_cli *cli, struct vdisk_image *image, enum vdisk_repair repair)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_check_result result;
    struct vdisk_error err = {0};
    int ret = vdisk_image_info(image, &info, &err);
    if (ret == 0)
        ret = check_twice(cli, image, repair, &result, &err);
    if (ret == -ENOTSUP) {
        vd_cli_error("%s: This image format does not support checks (%s)", cli->operands[0],
                     info.format);
        return CHECK_UNSUPPORTED;
    }
    if (ret < 0)
        return vd_cli_fail(&err);

    if (!cli->quiet && !cli->json)
        print_human(&result);
    if (cli->json && print_json(cli->operands[0], info.format, &result) != 0)
        return CHECK_FAILED;
    return status_of(&result);
}

/*
 * Opens the image, for a repair in two steps: a look that tells the format, so that a raw image is
 * said to have nothing to check rather than refused for writing.
 */
static struct vdisk_image *open_for_check(struct vd_cli *cli, enum vdisk_repair repair)
{
    const char *name = cli->operands[0];
    uint32_t flags = VDISK_OPEN_CHECK | VDISK_OPEN_NO_BACKING | cli->source_cache_flags;
    struct vdisk_image *image = vd_cli_open(cli, name, cli->format, flags);
    if (!image || repair == VDISK_REPAIR_NONE)
        return image;

    char format[32];
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err = {0};
    if (vdisk_image_info(image, &info, &err) < 0) {
        vd_cli_fail(&err);
        vd_cli_close(image, 0);
        return NULL;
    }
    snprintf(format, sizeof(format), "%s", info.format);
    vd_cli_close(image, 0);
    return vd_cli_open(cli, name, format, flags | VDISK_OPEN_WRITE);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    enum vdisk_repair repair = VDISK_REPAIR_NONE;
    int status = vd_cli_parse(cli, argc, argv, take, &repair);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status == VD_CLI_GO && repair != VDISK_REPAIR_NONE && cli->share)
        status = vd_cli_usage_error(cli, "-r and -U: an image that another process may be writing "
                                         "can not be repaired");
    if (status != VD_CLI_GO)
        return status;

    struct vdisk_image *image = open_for_check(cli, repair);
    if (!image)
        return CHECK_FAILED;
    status = check(cli, image, repair);
    return vd_cli_close(image, status);
}

const struct vd_cli_verb vd_cmd_check = {
    .name = "check",
    .synopsis = "[-f FMT] [-r leaks|all] [-q] [-T CACHE] [-U] [--output=human|json] FILE",
    .help = "Check the metadata of an image, and mend it",
    .text =
        "Exit status: 0 no errors (any more), 1 the check failed, 2 corruptions, 3 leaked\n"
        "clusters but no corruptions, 63 the format has nothing to check.  With -r it is the\n"
        "state after the repair; -r all keeps what is leaked in a QED image that had\n"
        "contradictions, for the next -r to give back.  Findings are printed on standard error.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_SHARE | VD_CLI_OUTPUT | VD_CLI_SOURCE_CACHE |
              VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
