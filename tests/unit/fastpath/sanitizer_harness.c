/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads frames (32-bit size in host order, bytes) from standard input until its
 * end and answers each with a result byte and a key.  Built with sanitizers: each
 * frame lies in memory of exactly its size, so that one byte too many is found.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fp_packet.h"

int main(void)
{
    struct fp_flow_key key;
    uint32_t size;

    while (fread(&size, sizeof size, 1, stdin) == 1) {
        uint8_t *frame = malloc(size ? size : 1);
        struct fp_frame whole = {0, size};
        uint8_t result;

        if (!frame || fread(frame, 1, size, stdin) != size)
            return 2;
        /* An empty frame has no byte that could be read. */
        if (size == 0)
            result = (uint8_t)fp_parse(NULL, 0, &key);
        else if (fp_parse_batch(frame, size, &whole, 1, &key, &result))
            return 3;
        free(frame);
        if (fwrite(&result, 1, 1, stdout) != 1 || fwrite(&key, sizeof key, 1, stdout) != 1)
            return 4;
        if (fflush(stdout))
            return 4;
    }
    return 0;
}
