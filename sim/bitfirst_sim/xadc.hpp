// The converter in Xilinx 7-series chips (XADC, UG480) as its port for registers shows it, on a board like Arty A7: what a
// rail takes comes as volts of an amplifier (`shunt_ohm`: a volt for each ampere) on the auxiliary input of the rail's
// address; the rail's volts, for address 9, by a divider on input 1, for 10 from the chip's own supply VCCINT.
//
// A sequence goes round the channels that are chosen, 26 cycles of the converter's clock for each. The input is taken in an
// instant, ACQUISITION of them into its conversion, with offset, gain error, a bow of linearity and noise, and cut to 16
// bits. A mean of so many turns is cut, too, and stands in its register from the last of them on; the end of the sequence
// comes with that. Offset and noise of volts are at the rail, noise is of a conversion; `time_error` is none, as the clock
// is the device's. Writing a configuration or a sequence begins the sequence anew.
//
// Left out: sequences other than by default and continuous, alarms, calibration, temperature, channels of no rail (0), and
// how the channels of a sequence that was ended are mixed into the next one. Errors are those that calibration leaves.

#ifndef BITFIRST_XADC_HPP
#define BITFIRST_XADC_HPP

#include "sensors.hpp"

namespace sensors {

class Xadc {
public:
    class Input {
    public:
        explicit Input(const Rail& rail) : rail(rail), noise(rail.seed) { set_watts(0, 0); }

        // The load takes so many watts; a supply that cannot give them gives what it can.
        void set_watts(double, double watts) {
            const double volts = rail.supply_volts, ohm = rail.source_ohm;
            const double root = std::sqrt(std::max(0.0, volts * volts - 4 * ohm * watts));
            amps = ohm > 0 ? 2 * std::min(watts, volts * volts / (4 * ohm)) / (volts + root) : watts / volts;
        }

        // Volts at the converter.
        double current() {
            const double volts = amps * rail.shunt_ohm;
            const double bow = rail.linearity_volts * std::sin(BOW * volts);
            return volts * (1 + rail.gain_error) + rail.offset_volts + bow + disturbance(rail.noise_volts);
        }
        double volts() {
            const double load = rail.supply_volts - amps * rail.source_ohm;
            const double seen = load * (1 + rail.bus_gain_error) + rail.bus_offset_volts;
            return (seen + disturbance(rail.bus_noise_volts)) / scale();
        }

        int current_channel() const { return AUXILIARY + rail.address; }
        int volts_channel() const { return rail.address == 9 ? AUXILIARY + 1 : VCCINT; }

        const Rail rail;

    private:
        static constexpr double BOW = 18.85;  // three periods in full scale

        double scale() const { return rail.address == 9 ? 5.99 : 3; }
        double disturbance(double rms) { return rms > 0 ? rms * noise() : 0; }

        double amps = 0;
        Noise noise;
    };

    void add(const Rail& rail) {
        inputs.push_back(std::make_unique<Input>(rail));
        begin();
    }

    Input& chip(size_t number) { return *inputs.at(number); }
    size_t size() const { return inputs.size(); }

    // What stands in a register.
    unsigned look(int number) const { return registers[number]; }

    // A cycle of the port's clock; what comes of it is `word`, `ready` and `ended` in the next one.
    void clock(double time, bool enable, bool write, unsigned address, unsigned data) {
        ready = ended = false;
        if (enable && answer_in) ++violations;
        if (enable) asked = {write, address & 0x7F, data & 0xFFFF}, answer_in = ANSWER_CYCLES;
        else if (answer_in && --answer_in == 0 && answers(time)) answer();
        if (++cycle == sample_at) value = convert(channels[place]);
        if (cycle == end_at) converted();
    }

    unsigned word = 0;
    bool ready = false, ended = false;
    uint64_t violations = 0;  // asked before it was done, writes of what cannot be written then

private:
    static constexpr int AUXILIARY = 0x10, VCCINT = 1, ANSWER_CYCLES = 5, CONVERSION = 26, ACQUISITION = 4;
    enum Register { AVERAGE = 0x40, MODE = 0x41, DIVIDER = 0x42, CHOSEN = 0x48, AVERAGED = 0x4A, BIPOLAR = 0x4C };
    enum Mode { DEFAULT = 0, CONTINUOUS = 2 };

    struct Asked {
        bool write;
        unsigned address, data;
    };

    bool answers(double time) const {
        return std::all_of(inputs.begin(), inputs.end(), [&](const auto& input) { return time < input->rail.stops_s; });
    }

    void answer() {
        ready = true;
        if (!asked.write) {
            word = registers[asked.address];
            return;
        }
        const bool sequence = asked.address >= CHOSEN && asked.address < CHOSEN + 8;
        if (asked.address < AVERAGE || (sequence && mode() != DEFAULT)) {
            ++violations;
            return;
        }
        registers[asked.address] = static_cast<uint16_t>(asked.data);
        if (asked.address <= DIVIDER || sequence) begin();
    }

    int mode() const { return registers[MODE] >> 12; }
    uint64_t divider() const { return std::max(2, registers[DIVIDER] >> 8); }
    int averages() const {
        static constexpr int AVERAGES[] = {1, 16, 64, 256};
        return AVERAGES[mode() == DEFAULT ? 1 : registers[AVERAGE] >> 12 & 3];
    }

    // The bit of a channel in a pair of registers.
    bool bit(int pair, int channel) const {
        return channel < AUXILIARY ? registers[pair] >> (8 + channel) & 1 : registers[pair + 1] >> (channel - AUXILIARY) & 1;
    }
    bool averaged(int channel) const { return mode() == DEFAULT || bit(AVERAGED, channel); }

    void begin() {
        channels.clear();
        if (mode() == DEFAULT) channels = {0, 1, 2, 6};
        for (int channel = 0; mode() == CONTINUOUS && channel < 32; ++channel)
            if ((channel < 7 || channel >= AUXILIARY) && bit(CHOSEN, channel)) channels.push_back(channel);
        sums.assign(channels.size(), 0);
        place = 0;
        turns = 0;
        sample_at = end_at = 0;
        if (!channels.empty()) next();
    }

    void next() {
        sample_at = cycle + ACQUISITION * divider();
        end_at = cycle + CONVERSION * divider();
    }

    int64_t convert(int channel) {
        double volts = 0;
        for (auto& input : inputs) {
            if (channel == input->current_channel()) volts = input->current();
            if (channel == input->volts_channel()) volts = input->volts();
        }
        const bool half = channel >= AUXILIARY && bit(BIPOLAR, channel);
        const double code = std::floor(volts * 65536);
        return half ? rounded(code, -0x8000, 0x7FFF) : rounded(code, 0, 0xFFFF);
    }

    void converted() {
        const int channel = channels[place];
        sums[place] += value;
        const bool last_turn = turns + 1 == averages();
        if (!averaged(channel)) give(channel, value);
        if (averaged(channel) && last_turn) give(channel, sums[place] / averages());
        if (++place == channels.size()) {
            place = 0;
            const bool any = std::any_of(channels.begin(), channels.end(), [&](int one) { return averaged(one); });
            ended = last_turn || !any;
            turns = last_turn ? 0 : turns + 1;
            if (last_turn) sums.assign(channels.size(), 0);
        }
        next();
    }

    void give(int channel, int64_t code) { registers[channel] = static_cast<uint16_t>(code); }

    std::vector<std::unique_ptr<Input>> inputs;
    uint16_t registers[128] = {};
    Asked asked = {};
    int answer_in = 0, turns = 0;
    std::vector<int> channels;
    std::vector<int64_t> sums;
    size_t place = 0;
    int64_t value = 0;
    uint64_t cycle = 0, sample_at = 0, end_at = 0;
};

}  // namespace sensors

#endif
