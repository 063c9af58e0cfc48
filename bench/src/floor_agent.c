/* A minimal C program that reads and publishes as the agent does: its CPU time is the unit of bench/agent.py --floor.
 *
 *   floor_agent BASEPORT DEVICES MQTTPORT
 *
 * One thread serves all devices. Every second it reads 100 registers from each device twice (libmodbus), decodes
 * 100 float32, and publishes one JSON object per device (libmosquitto, QoS 1). The program signs nothing, stores nothing
 * and does not report gaps. Its limit is about 1,000 devices, because libmodbus waits with select(). */
#include <errno.h>
#include <modbus.h>
#include <mosquitto.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { POINTS = 100, REGISTERS = 2 * POINTS, BODY = 8192 };

static int publish(struct mosquitto *broker, int device, const uint16_t *registers)
{
    static char body[BODY];
    char topic[32];
    struct timespec read_at;
    clock_gettime(CLOCK_REALTIME, &read_at);
    int end = snprintf(body, sizeof body, "{\"ts\":%lld%03ld,\"values\":{", (long long)read_at.tv_sec, read_at.tv_nsec / 1000000);
    for (int i = 0; i < POINTS; i++)
        end += snprintf(body + end, sizeof body - end, "%s\"p%d\":%.9g", i ? "," : "", 2 * i,
                        modbus_get_float_abcd(registers + 2 * i));
    end += snprintf(body + end, sizeof body - end, "}}");
    snprintf(topic, sizeof topic, "floor/d%d", device);
    return mosquitto_publish(broker, NULL, topic, end, body, 1, false);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: floor_agent BASEPORT DEVICES MQTTPORT\n");
        return 2;
    }
    int base = atoi(argv[1]), devices = atoi(argv[2]), port = atoi(argv[3]);
    modbus_t **lines = calloc(devices, sizeof *lines);
    if (!lines)
        return 1;
    for (int i = 0; i < devices; i++) {
        lines[i] = modbus_new_tcp("127.0.0.1", base + i);
        if (!lines[i] || modbus_set_slave(lines[i], 1) || modbus_connect(lines[i])) {
            fprintf(stderr, "device %d: %s\n", i, modbus_strerror(errno));
            return 1;
        }
    }
    mosquitto_lib_init();
    struct mosquitto *broker = mosquitto_new(NULL, true, NULL);
    mosquitto_max_inflight_messages_set(broker, 100);
    if (mosquitto_connect(broker, "127.0.0.1", port, 60) || mosquitto_loop_start(broker)) {
        fprintf(stderr, "no broker on port %d\n", port);
        return 1;
    }
    struct timespec tick;
    clock_gettime(CLOCK_MONOTONIC, &tick);
    for (;;) {
        for (int i = 0; i < devices; i++) {
            uint16_t registers[REGISTERS];
            if (modbus_read_registers(lines[i], 0, POINTS, registers) == POINTS &&
                modbus_read_registers(lines[i], POINTS, POINTS, registers + POINTS) == POINTS)
                publish(broker, i, registers);
        }
        tick.tv_sec++;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &tick, NULL);
    }
}
